"""What commands print."""

import json
import sys
from typing import Any

from rich.console import Console


def print_error(message: str) -> None:
    Console(stderr=True, highlight=False).print(f"error: {message}", soft_wrap=True, markup=False)


def print_json(document: Any) -> None:
    # In ASCII, which every encoding of a terminal or a file has.
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
