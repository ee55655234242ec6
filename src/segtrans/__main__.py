"""``python -m segtrans``, for launchers such as torchrun that start modules."""

from segtrans.cli import main

main()
