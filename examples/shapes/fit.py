"""Shell: the training itself: settings as JSON from stdin, accuracies as JSON to stdout, progress to stderr.

    python -m examples.shapes.fit FOLDER SEED

Started by `train.py`; see there for what it writes into the folder.
"""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn
from torchvision.models import ResNet, resnet18

from hotpool.manifest import Preprocessing
from workers.preprocess import Preprocessor

from .pictures import LABELS, Labelled, draw_many
from .train import PICTURES, Settings, Stage

PNG_EVERY = 5  # of a class's held-out pictures every fifth is PNG, the others are JPEG

Inputs = tuple[Tensor, Tensor]  # (n, 3, resolution, resolution) float32, labels (n,) int64
Prepare = Callable[[Image.Image], Tensor]


def main() -> None:
    settings = msgspec.json.decode(sys.stdin.read(), type=Settings)
    seed = int(sys.argv[2])
    torch.manual_seed(seed)
    torch.set_num_threads(settings.threads)
    torch.use_deterministic_algorithms(True)
    # It is for those who read what was never written, and takes 7 % of a step's time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    with _bars(Console(stderr=True)) as bars:
        accuracy = _fit(Path(sys.argv[1]), settings, seed, bars)
    print(json.dumps(accuracy))


def _bars(console: Console) -> Progress:
    text = TextColumn("{task.description:<16}"), TextColumn("{task.fields[note]}")
    return Progress(text[0], BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), text[1], console=console)


def _fit(out: Path, settings: Settings, seed: int, bars: Progress) -> dict[str, float]:
    # The workers' own code, so that the model is trained on what it will be asked.
    prepare = Preprocessor(Preprocessing(resize=settings.resolution, crop=settings.resolution)).picture
    # Two seeds, so no held-out picture is a training picture.
    n_training = max(stage.n_pictures for stage in settings.stages)
    drawn = draw_many(n_training, 2 * seed)
    training = _stack(_track(bars, drawn, n_training, "training"), prepare)
    drawn = draw_many(settings.n_held_out, 2 * seed + 1)
    held_out = _stack(_saved(out / PICTURES, _track(bars, drawn, settings.n_held_out, "held-out")), prepare)
    model = resnet18(num_classes=len(LABELS))
    for part in model.layer4.modules():
        if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3):
            part.forward = partial(by_product, part)  # type: ignore[method-assign]
    accuracy = {}
    for stage in settings.stages:
        _train(model, training, stage, settings, bars)
        accuracy[stage.name] = _accuracy(model, held_out)
        torch.save(model.state_dict(), out / f"{stage.name}.pth")
    return accuracy


def _track(bars: Progress, drawn: Iterable[Labelled], n: int, kind: str) -> Iterable[Labelled]:
    return bars.track(drawn, total=n, task_id=bars.add_task(f"{kind} pictures", note=""))


def _saved(folder: Path, drawn: Iterable[Labelled]) -> Iterator[Labelled]:
    """Writes each picture and hands on what the file holds: JPEG changes the pixels a little."""
    for i, (picture, label) in enumerate(drawn):
        suffix = "jpg" if i // len(LABELS) % PNG_EVERY else "png"
        path = folder / f"{LABELS[label]}-{i // len(LABELS):03}.{suffix}"
        picture.save(path, quality=90)
        with Image.open(path) as saved:
            yield saved.convert("RGB"), label


def _stack(drawn: Iterable[Labelled], prepare: Prepare) -> Inputs:
    inputs, labels = zip(*((prepare(picture), label) for picture, label in drawn), strict=True)
    return torch.stack(inputs), torch.tensor(labels)


def by_product(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What a 3 x 3 convolution computes, as one product of matrices. On maps of 2 x 2 oneDNN's takes twice as long: a step took
    170 ms on a Zen 3, and 128 with these products."""
    side = (x.shape[2] - 1) // conv.stride[0] + 1
    columns = nn.functional.unfold(x, 3, padding=1, stride=conv.stride).transpose(1, 2)
    outputs: Tensor = (columns @ conv.weight.flatten(1).T).transpose(1, 2)
    return outputs.view(len(x), -1, side, side)


def _train(model: ResNet, training: Inputs, stage: Stage, settings: Settings, bars: Progress) -> None:
    inputs, labels = training[0][: stage.n_pictures], training[1][: stage.n_pictures]
    steps = stage.n_pictures // settings.batch
    rate = stage.learning_rate
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=settings.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, epochs=stage.epochs, steps_per_epoch=steps, pct_start=settings.warm_up
    )
    model.train()
    for epoch in range(1, stage.epochs + 1):
        bar = bars.add_task(f"{stage.name} epoch {epoch}/{stage.epochs}", total=steps, note="")
        # The last, smaller batch is left out: its few pictures would upset the batch norms.
        for chosen in torch.randperm(stage.n_pictures)[: steps * settings.batch].split(settings.batch):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen])
            loss.backward()
            optimizer.step()
            schedule.step()
            bars.update(bar, advance=1, note=f"loss {loss.item():.2f}")


def _accuracy(model: ResNet, held_out: Inputs) -> float:
    """The share of the pictures whose highest output is that of their class."""
    inputs, labels = held_out
    model.eval()
    with torch.inference_mode():
        named = torch.cat([model(batch).argmax(dim=1) for batch in inputs.split(100)])
    return int((named == labels).sum()) / len(labels)


if __name__ == "__main__":
    main()
