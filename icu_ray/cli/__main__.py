"""`python -m icu_ray.cli` is `icu-ray`."""

from __future__ import annotations

import sys

from icu_ray.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
