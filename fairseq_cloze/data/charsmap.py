"""Charsmap: the table of characters that SentencePiece's normaliser replaces, from a stranger's file.

It is a trie in a double array (Darts), then the replacements, each with a NUL behind it.  ``tokenizers`` follows its
offsets unchecked and panics where one leads out of it, so all of them are looked at before.
"""

import numpy as np

_LEAF = 1 << 31  # a value, no inner unit


def charsmap_problem(content: bytes) -> str:
    """What is wrong with a charsmap; empty where nothing is."""
    size = int.from_bytes(content[:4], "little")
    if len(content) < 4 or size % 4 or not 4 <= size <= len(content) - 4:
        return "its trie is cut short"
    units = np.frombuffer(content, "<u4", size // 4, 4).astype(np.int64)
    replacements = content[4 + size :]
    try:
        replacements.decode()
    except UnicodeDecodeError:
        return "its replacements are not UTF-8"
    inner = (units & _LEAF) == 0
    offset = (units >> 10) << ((units & (1 << 9)) >> 6)
    children = np.arange(len(units)) ^ offset  # of which the value is the first, the byte b the one at ^ b
    if (children[inner] | 0xFF).max(initial=0) >= len(units):
        return "its trie leads out of itself"
    with_value = inner & ((units & (1 << 8)) != 0)
    starts = np.unique(units[children[with_value]] & (_LEAF - 1))
    if len(starts) and starts.max() >= len(replacements):
        return "it names replacements that are not there"
    first = np.frombuffer(replacements, np.uint8)[starts]
    return "it names half of a character" if ((first & 0xC0) == 0x80).any() else ""
