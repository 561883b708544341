"""Shell: what is in a picture, asked of a running pool: `python -m examples.classify cat.jpg`."""

import sys

from hotpool import Client

with Client() as client:
    for path in sys.argv[1:]:
        prediction = client.classify(path, top=3)
        print(f"{path}: answered by {prediction.version} on {prediction.worker}")
        for c in prediction.classes:
            print(f"  {c.label:<12} {c.probability:6.1%}")
