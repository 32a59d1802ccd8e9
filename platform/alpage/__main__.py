"""`python -m alpage` is the command `alpage`."""

from alpage.cli import main

main()
