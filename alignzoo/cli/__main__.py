"""`python -m alignzoo.cli`: the command line without its console script."""

from alignzoo.cli import main

main()
