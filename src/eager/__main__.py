"""`python -m eager` is `eager`."""

import os
import sys

# Python looks for modules in the current folder first: nothing that lies there by chance shall run.
if os.path.isdir(sys.path[0]) and os.path.samefile(sys.path[0], os.curdir):
    del sys.path[0]

from eager.cli import main

main(prog_name="eager")
