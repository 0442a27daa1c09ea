"""What a terminal is sent becomes lines: nothing is lost that is no drawing, and memory stays bounded."""

from fairseq_cloze.runlog.terminal import LONGEST_PART, Lines, without_controls


def seeds() -> list[bytes]:
    return [
        b"one\r\n\r\ntwo\nthree",
        b"\r 0%\r10%\r\x1b[K99%\r\n",
        b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07\x1b(B\r\n",
        b"\router 1\r\n\rinner 0\x1b[A\r\n\r   \r\x1b[A\router 2\r\n",
        b"\xe2\x82\xac \xff\x00\ttab\r\r\n",
    ]


def attack(data: bytes) -> None:
    logs = []
    for size in (len(data) or 1, max(len(data) // 40, 1)):
        out: list[bytes] = []
        lines = Lines(out.append)
        for begin in range(0, len(data), size):
            lines.feed(data[begin : begin + size], 0.0)
        assert len(lines._part) <= LONGEST_PART + len(data)
        lines.close()
        logs.append(b"".join(out))
    if b"\x1b" not in data and b"\r" not in data:
        plain = data.translate(None, b"\x07\x08\x0e\x0f")
        assert set(logs) <= {plain, plain + b"\n"}
    assert without_controls(data).count(b"\n") <= data.count(b"\n")
