"""Unpacking an archive that came from elsewhere: nothing leaves its folder, nothing is larger than it may be."""

import os
import stat
import struct
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath

MAX_MEMBERS = 100_000
MAX_DIRECTORY_BYTES = 24 << 20
"""Of an archive's own list of members, which zipfile reads as a whole; 240 bytes for each member."""
BLOCK_BYTES = 2**20
COMPRESSIONS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_END, _END_BYTES = b"PK\x05\x06", 22
_END_64, _END_64_BYTES = b"PK\x06\x06", 76
"""The record of a large archive with the locator behind it."""
ENCRYPTED = 0x1
"""General purpose bit of a member of a zip file (APPNOTE.TXT 4.4.4)."""


def in_words(size_bytes: int) -> str:
    """A size as people say it: `1.3 GB`, `208 MB`, `512 bytes`; 1 MB is a million bytes."""
    if size_bytes >= 1e9:
        return f"{size_bytes / 1e9:.1f} GB"
    if size_bytes >= 1e6:
        return f"{size_bytes / 1e6:.0f} MB"
    return f"{size_bytes:,} bytes"


def require_short_directory(archive: Path) -> None:
    """See, before zipfile reads it, that the list of members is bearable; `harmless_members` counts them afterwards.

    Its size stands in the record at the end (APPNOTE.TXT 4.3.16), and again in that of large archives (4.3.14).

    Raises:
        BadZipFile: it is too long.
    """
    with archive.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _END_BYTES - 2**16 - _END_64_BYTES))
        tail = file.read()
    # As zipfile looks for it: at the very end, else behind the last place that looks like it.
    end = len(tail) - _END_BYTES
    if not (tail[end : end + 4] == _END and tail.endswith(b"\0\0")):
        end = tail.rfind(_END)
    if end < 0 or end + _END_BYTES > len(tail):
        return  # no zip file, as zipfile will say
    (told,) = struct.unpack_from("<L", tail, end + 12)
    large = end - _END_64_BYTES
    if large >= 0 and tail[large : large + 4] == _END_64:
        (told,) = struct.unpack_from("<Q", tail, large + 40)
    if told > MAX_DIRECTORY_BYTES:
        raise zipfile.BadZipFile(f"its list of members takes {in_words(told)}")


def harmless_members(zipped: zipfile.ZipFile, limit_bytes: int) -> list[zipfile.ZipInfo]:
    """The files to unpack, once every entry was found harmless by the archive's own directory.

    Raises:
        BadZipFile: it is not to be unpacked.
    """
    entries = zipped.infolist()
    if len(entries) > MAX_MEMBERS:
        raise zipfile.BadZipFile(f"it has {len(entries):,} members, at most {MAX_MEMBERS:,} are unpacked")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > limit_bytes:
        raise zipfile.BadZipFile(f"it would unpack to {in_words(unpacked)}")
    for entry in entries:
        if fault := _fault_of(entry):
            raise zipfile.BadZipFile(f"its member {entry.orig_filename!r} {fault}")
    members = [entry for entry in entries if not entry.is_dir() and not _is_from_a_mac(entry)]
    if not members:
        raise zipfile.BadZipFile("there is no file in it")
    paths: set[PurePosixPath] = set()
    for member in members:
        path = PurePosixPath(member.filename)
        if path in paths:
            raise zipfile.BadZipFile(f"its member {member.filename!r} is there twice")
        paths.add(path)
    for path in paths:
        if any(parent in paths for parent in path.parents):
            raise zipfile.BadZipFile(f"its member {str(path)!r} lies inside of another file")
    return members


def _fault_of(entry: zipfile.ZipInfo) -> str | None:
    """Why an entry is not to be unpacked, as the end of a sentence."""
    # zipfile cuts names at a NUL and takes a second name from an extra field: both are looked at.
    names = (entry.orig_filename, entry.filename)
    kind = stat.S_IFMT(entry.external_attr >> 16)  # of Unix; 0 from other systems
    method = entry.compress_type
    faults = {
        "has no name": not all(names) or not (entry.is_dir() or PurePosixPath(entry.filename).parts),
        "has an absolute path": any(name.startswith("/") or PureWindowsPath(name).drive for name in names),
        "has a backslash in its path": any("\\" in name for name in names),
        "leads out of the folder": any(".." in name.split("/") for name in names),
        "has a control character in its name": any(min(name, default="") < " " for name in names),
        "is a symbolic link": kind == stat.S_IFLNK,
        "is no plain file": kind not in {0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK},
        "is encrypted": bool(entry.flag_bits & ENCRYPTED),
        f"is packed by method {method}, not by 0 (stored) or 8 (deflated)": method not in COMPRESSIONS,
    }
    return next((fault for fault, found in faults.items() if found), None)


def _is_from_a_mac(entry: zipfile.ZipInfo) -> bool:
    """Whether it is AppleDouble, which would look like one more recording."""
    path = PurePosixPath(entry.filename)
    return path.parts[0] == "__MACOSX" or path.name.startswith("._")


def write_members(zipped: zipfile.ZipFile, members: list[zipfile.ZipInfo], folder: Path, limit_bytes: int) -> None:
    """Write members and count what really comes, whatever the directory of the archive told."""
    written = 0
    for member in members:
        path = folder / member.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipped.open(member) as packed, path.open("xb") as file:
            while block := packed.read(BLOCK_BYTES):
                written += len(block)
                if written > limit_bytes:
                    raise zipfile.BadZipFile(f"it unpacks to more than {in_words(limit_bytes)}")
                file.write(block)
