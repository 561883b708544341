"""The demo model: ten classes of drawn shapes and textures, and a ResNet-18 trained on them.

`pictures.py` draws the pictures, `fit.py` trains on them, `train.py` sees to it that it happens once. Nothing is downloaded
and everything repeats by its seed.

    python -m examples.shapes.train --out var/demo/model
"""
