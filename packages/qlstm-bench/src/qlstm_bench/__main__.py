"""``python -m qlstm_bench``: the command line, in the form that torchrun starts."""

import sys

from qlstm_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
