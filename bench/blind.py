"""Shell: as `bench.noop`, by a worker that does not look into pictures: any bytes are one black pixel.

    python -m bench.blind HOME worker-0

For comparisons over HTTP, where others' models that do nothing don't decode either.
"""

import sys
from unittest.mock import patch

from PIL import Image

from workers.pictures import Picture

from .noop import main

BLACK = Picture(Image.new("RGB", (1, 1)), (1, 1))


def see_nothing(*_: object) -> Picture:
    return BLACK


if __name__ == "__main__":
    with patch("workers.worker.decode", see_nothing):
        sys.exit(main(sys.argv[1:]))
