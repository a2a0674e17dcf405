"""What a shared library asks of others: its DT_NEEDED entries and its undefined symbols with their
versions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np
from elftools.elf.elffile import ELFFile

_SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
_WEAK = 2


@dataclass(frozen=True)
class Imported:
    """A symbol that a library imports.

    ``version`` and ``soname`` are what its version requirement (.gnu.version_r) names, or None for a symbol
    without one; ``soname`` then has to be told from the symbol's name. ``weak`` symbols may stay unresolved.
    """

    name: str
    version: Optional[str]
    soname: Optional[str]
    weak: bool


@dataclass(frozen=True)
class Imports:
    """A library's DT_NEEDED sonames and the symbols that it imports."""

    needed: tuple[str, ...]
    symbols: tuple[Imported, ...]


def read_defined(path: Path) -> set[str]:
    """The names of the symbols that a library defines for others."""
    with open(path, "rb") as stream:
        dynsym = ELFFile(stream).get_section_by_name(".dynsym")
        if dynsym is None:
            return set()
        table = np.frombuffer(dynsym.data(), dtype=_SYMBOL)
        with_names = table["name"][table["section"] != 0]
        names: bytes = dynsym.elffile.get_section(dynsym["sh_link"]).data()
        return {names[start : names.index(b"\0", start)].decode() for start in with_names.tolist() if start}


def read_imports(path: Path) -> Imports:
    """Read the imports of a 64-bit little-endian ELF library.

    Only the dynamic sections are read: libtorch_cuda has half a gigabyte of kernels and a symbol table that a
    loop over pyelftools' objects takes half a minute for, so the table is read as an array.
    """
    with open(path, "rb") as stream:
        elf = ELFFile(stream)
        dynamic = elf.get_section_by_name(".dynamic")
        needed = tuple(tag.needed for tag in dynamic.iter_tags("DT_NEEDED")) if dynamic else ()
        dynsym = elf.get_section_by_name(".dynsym")
        if dynsym is None:
            return Imports(needed, ())
        table = np.frombuffer(dynsym.data(), dtype=_SYMBOL)
        names = elf.get_section(dynsym["sh_link"]).data()
        versym_section = elf.get_section_by_name(".gnu.version")
        versym = np.frombuffer(versym_section.data(), dtype="<u2") if versym_section else None
        versions: dict[int, tuple[str, str]] = {}
        verneed = elf.get_section_by_name(".gnu.version_r")
        if verneed is not None:
            for requirement, wanted in verneed.iter_versions():
                for version in wanted:
                    versions[version["vna_other"] & 0x7FFF] = (version.name, requirement.name)
    symbols = []
    undefined = np.flatnonzero((table["section"] == 0) & (table["name"] != 0))
    for index in undefined:
        start = int(table["name"][index])
        name = names[start : names.index(b"\0", start)].decode()
        version, soname = (
            versions.get(int(versym[index]) & 0x7FFF, (None, None)) if versym is not None else (None, None)
        )
        symbols.append(Imported(name, version, soname, int(table["info"][index]) >> 4 == _WEAK))
    return Imports(needed, tuple(symbols))
