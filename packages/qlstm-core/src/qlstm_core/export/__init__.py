"""Packed networks for programs without Python."""

from typing import TYPE_CHECKING

from qlstm_core.exports import lazily

if TYPE_CHECKING:
    from qlstm_core.export.c import CExport, export_c

__all__ = ["CExport", "export_c"]

__getattr__, __dir__ = lazily(__name__, dict.fromkeys(("CExport", "export_c"), "qlstm_core.export.c"))
