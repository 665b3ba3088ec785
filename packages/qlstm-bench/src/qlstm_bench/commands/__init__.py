"""The commands of ``qlstm-bench``: one file each, with its help and its options."""
