"""Others: files that hold no exam that can be read, told from their content, and what to do about them."""

import io
import re
import zipfile

from ...errors import PassageError
from ...files import POINTER, POINTER_IS

_WORD, _TABLE, _SLIDES = "save it as .docx or .txt", "save it as .csv", "save its text as .docx or .txt"

#: By what a file begins with: what it is, and what to do.
_BEGINNINGS = (
    (b"%PDF", "PDF", "save it as .docx or copy its text into a .txt"),
    (b"{\\rtf", "RTF", _WORD),
    (b"\x89PNG", "a picture", "type its text"),
    (b"\xff\xd8\xff", "a picture", "type its text"),
)

#: Files of an older Office (OLE), by the name of a part in them.
_OLE = b"\xd0\xcf\x11\xe0"
_OLE_PARTS = (
    (
        "EncryptedPackage",
        "a document with a password",
        "take the password away and save it as .docx, or a table as .csv",
    ),
    ("WordDocument", "a document of an older Word (.doc)", _WORD),
    ("Workbook", "a table of an older Excel (.xls)", _TABLE),
    ("PowerPoint Document", "slides of an older PowerPoint (.ppt)", _SLIDES),
)

#: Zip archives, by the beginning of the names in them or, of a name ``mimetype``, of its content.
_ZIP = b"PK\x03\x04"
_ZIP_NAMES = (
    ("xl/", "a table of Excel (.xlsx)", _TABLE),
    ("ppt/", "slides of PowerPoint (.pptx)", _SLIDES),
    ("Index/", "a document of Apple's Pages, Numbers or Keynote", "export it as .docx, or a table as .csv"),
)
_MIME_TYPES = (
    ("application/vnd.oasis.opendocument.text", "a text of LibreOffice (.odt)", _WORD),
    ("application/vnd.oasis.opendocument.spreadsheet", "a table of LibreOffice (.ods)", _TABLE),
    ("application/vnd.oasis.opendocument", "a document of LibreOffice", _SLIDES),
    ("application/epub", "a book (EPUB)", _SLIDES),
)


def refuse_others(content: bytes, source: str) -> None:
    """Make sure that a file may be a text, a document of Word, a table or a quiz.

    Raises:
        PassageError: it is something else; says what, and what to do
    """
    found = _kind_of(content)
    if found:
        problem = "; ".join(found)
        raise PassageError(source, f"expected text, a document of Word, a table or a quiz, found {problem}")


def _kind_of(content: bytes) -> tuple[str, ...] | None:
    if content.startswith(POINTER):
        return (POINTER_IS,)
    for beginning, *found in _BEGINNINGS:
        if content.startswith(beginning):
            return tuple(found)
    if content.startswith(_OLE):
        for name, *known in _OLE_PARTS:
            if name.encode("utf-16-le") in content:
                return tuple(known)
        return "a file of an older Office", "save it as .docx, or a table as .csv"
    return _in_zip(content) if content.startswith(_ZIP) else None


def _in_zip(content: bytes) -> tuple[str, ...] | None:
    """What an archive is; ``None`` where it may be a document of Word, broken or not."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            with archive.open("mimetype") if "mimetype" in names else io.BytesIO() as file:
                mime_type = file.read(200).decode("latin-1")
    except Exception:  # of a broken archive whatever it may be
        return None
    for kinds, texts in ((_MIME_TYPES, [mime_type]), (_ZIP_NAMES, names)):
        for beginning, *found in kinds:
            if any(text.startswith(beginning) for text in texts):
                return tuple(found)
    if any(re.match(r"word/|\[Content_Types\]\.xml$|_rels/", name) for name in names):
        return None
    return "a zip archive", "unpack it, and give the files in it"
