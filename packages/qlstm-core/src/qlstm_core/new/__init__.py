"""The package of a new plugin, as an author begins it: what ``qlstm new`` writes."""

from qlstm_core.new.package import KINDS, NewPackageError, first_command, write_package

__all__ = ["KINDS", "NewPackageError", "first_command", "write_package"]
