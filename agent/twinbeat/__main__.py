# SPDX-License-Identifier: Apache-2.0
"""`python -m twinbeat` is the command `twinbeat`."""

from twinbeat.cli.main import main

if __name__ == "__main__":
    main()
