"""``python -m ltcli`` is ``ltcli``."""

from ltcli.cli.main import main

main()
