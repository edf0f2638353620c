"""The training configuration: what a key may be, and every way to name one."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgeface.training.config import GROUPS, KEYS, OLD_NAMES, TrainConfig, as_dict, config_from, load_config
from edgeface_runtime import UsageError

ROOT = Path(__file__).parents[2]
# A value of each key that is not its default.
OTHER: dict[str, object] = {
    "backbone": "vgg11", "embedding_dim": 64, "input_size": 224, "normalization": "imagenet",
    "loss": "cosface", "logit_scale": 30.0, "margin": 0.5, "margin_warmup_ratio": 1.0,
    "class_sampling": 0.1,
    "batch_size": 8, "balanced_sampling": True,
    "optimizer": "sgd", "lr": 0.1, "embedding_lr_scale": 0.0, "weight_decay": 0.0, "grad_clip_norm": 1.0,
    "ema_decay": 0.99,
    "epochs": 3, "warmup_ratio": 0.0, "early_stopping_patience": 2, "progressive_size": 64, "progressive_ratio": 0.5,
    "full_size_lr_scale": 1.0,
    "fit_embedding": True, "imprint_head": True,
    "classification_weight": 0.0, "distill_weight": 1.0, "hint_weight": 0.0,
    "flip_prob": 1.0, "rotation_degrees": 0.0, "scale_jitter": 0.2, "translate_ratio": 0.2, "color_jitter": 0.0,
    "blur_prob": 0.1, "downscale_prob": 0.1, "erase_prob": 0.1, "turn_prob": 0.1, "turn_degrees": 45.0,
    "adversarial": "fgsm", "adversarial_eps": 4.0, "adversarial_steps": 5, "adversarial_ratio": 0.25,
    "seed": 7, "mixed_precision": "bf16", "compile": True,
}  # fmt: skip
# Names that runs and files had before keys were in groups.
OLD = {
    "embedding": "embedding_dim", "size": "input_size", "normalise": "normalization", "head": "loss",
    "s": "logit_scale", "m": "margin", "margin_warmup": "margin_warmup_ratio", "batch": "batch_size",
    "balanced": "balanced_sampling", "optimiser": "optimizer", "embed_rate": "embedding_lr_scale",
    "clip": "grad_clip_norm", "ema": "ema_decay", "warmup": "warmup_ratio", "patience": "early_stopping_patience",
    "small": "progressive_size", "small_share": "progressive_ratio", "full_rate": "full_size_lr_scale",
    "refit": "fit_embedding", "imprint": "imprint_head", "classify": "classification_weight",
    "distil": "distill_weight", "hint": "hint_weight", "flip": "flip_prob", "rotate": "rotation_degrees",
    "scale": "scale_jitter", "shift": "translate_ratio", "colour": "color_jitter", "blur": "blur_prob",
    "downscale": "downscale_prob", "erase": "erase_prob", "precision": "mixed_precision",
}  # fmt: skip


class Heard:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str, *, heading: bool = False) -> None:
        self.lines.append(line)


def changed(config: TrainConfig) -> dict[tuple[str, str], object]:
    """(group, key) → value, where it is not the default."""
    plain = as_dict(TrainConfig())
    return {
        (group, key): value
        for group, values in as_dict(config).items()
        for key, value in values.items()
        if value != plain[group][key]
    }


def test_every_key_has_a_row_here():
    assert OTHER.keys() == KEYS.keys()
    assert sum(len(dataclasses.fields(group)) for group in GROUPS.values()) == len(KEYS)


@pytest.mark.parametrize("key", OTHER)
def test_each_key_arrives_alone_and_nowhere_else(key: str, tmp_path: Path):
    group, value = KEYS[key][0], OTHER[key]
    text = json.dumps(value)
    file, table = tmp_path / "flat.toml", tmp_path / "table.toml"
    file.write_text(f"{key} = {text}\n")
    table.write_text(f"[{group}]\n{key} = {text}\n")
    for config in (
        load_config(settings=[f"{key}={text}"]),
        load_config(settings=[f"{group}.{key}={text}"]),
        load_config(file),
        load_config(table),
        load_config(**{key: value}),
        config_from(json.loads(json.dumps(as_dict(load_config(**{key: value}))))),
    ):
        assert changed(config) == {(group, key): value}


@pytest.mark.parametrize("old", OLD)
def test_an_old_name_is_taken_and_the_new_one_said(old: str, tmp_path: Path):
    key = OLD[old]
    text = json.dumps(OTHER[key])
    file = tmp_path / "old.toml"
    file.write_text(f"{old} = {text}\n")
    heard = Heard()
    for config in (load_config(settings=[f"{old}={text}"], reporter=heard), load_config(file, reporter=heard)):
        assert config == load_config(**{key: OTHER[key]})
    assert heard.lines == [
        f"{place}: {old} is called {key}; docs/training-config.md lists all keys" for place in ("--set", file)
    ]


def test_old_names_are_no_new_ones_too():
    assert OLD == OLD_NAMES
    assert not OLD.keys() & KEYS.keys()


def test_many_old_names_are_one_line():
    heard = Heard()
    document = {**{old: OTHER[key] for old, key in OLD.items()}, "epochs": 3}
    config = config_from(document, "run.json", heard)
    assert config == load_config(epochs=3, **{key: OTHER[key] for key in OLD.values()})
    (line,) = heard.lines
    assert line.startswith("run.json: embedding is called embedding_dim, size is called input_size, ")
    assert " and 29 more have new names; docs/training-config.md" in line


def test_defaults_then_file_then_settings_then_options(tmp_path: Path):
    file = tmp_path / "train.toml"
    file.write_text('backbone = "x"\n[optim]\nlr = 1\n[schedule]\nepochs = 3\n[head]\nlogit_scale = 8.0\n')
    config = load_config(file, ["logit_scale=9", "schedule.epochs=4"], epochs=5, embedding_dim=None)
    assert changed(config) == {
        ("model", "backbone"): "x",
        ("head", "logit_scale"): 9.0,
        ("optim", "lr"): 1.0,
        ("schedule", "epochs"): 5,
    }


def test_the_papers_recipe_stands_in_groups():
    config = load_config(Path("paper"))
    assert (config.head.loss, config.optim.optimizer, config.schedule.epochs) == ("arcface-learned", "sgd", 10)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epoch=3", "no setting 'epoch'; the nearest is 'epochs'"),
        ("learning_rate=3", "no setting 'learning_rate'; the nearest is "),
        ("normalize=arcface", "the nearest is 'normalization'"),
        ("=3", "no setting ''"),
        ("optim.epochs=3", "no setting 'optim.epochs'; the nearest is 'epochs'"),
        ("optim.=3", "no setting 'optim.'"),
        ("optim=3", "no setting 'optim'"),
        ('optim={"epochs": 3}', "no setting 'optim.epochs'"),
        ("epochs", "--set epochs: write it as key=value"),
        ("epochs=many", "setting epochs='many' is not of type int"),
        ("epochs=2.5", "setting epochs=2.5 is not of type int"),
        ("epochs=true", "setting epochs=True is not of type int"),
        ("lr=fast", "setting lr='fast' is not of type float"),
        ("lr=true", "setting lr=True is not of type float"),
        ("backbone=3", "setting backbone=3 is not of type str"),
        ("batch_size=[40]", r"setting batch_size=\[40\] is not of type int"),
        ("batch=many", "setting batch_size='many' is not of type int"),
        ("epochs=0", "--set epochs=0: must be at least 1"),
        ("batch_size=1", "--set batch_size=1: must be at least 2"),
        ("lr=0", "--set lr=0.0: must be above 0"),
        ("lr=NaN", "setting lr='NaN' is not of type float"),
        ("lr=Infinity", "setting lr='Infinity' is not of type float"),
        ("weight_decay=-1", "--set weight_decay=-1.0: must be 0 or more"),
        ("grad_clip_norm=0", "--set grad_clip_norm=0.0: must be above 0"),
        ("logit_scale=-1", "--set logit_scale=-1.0: must be above 0"),
        ("margin=2", "--set margin=2.0: must be 0 to 1.6 radians"),
        ("input_size=100", "--set input_size=100: must be 112 or 224"),
        ("flip_prob=2", "--set flip_prob=2.0: must be 0 to 1"),
        ("rotation_degrees=-1", "--set rotation_degrees=-1.0: must be 0 to 180"),
        ("scale_jitter=1", "--set scale_jitter=1.0: must be 0 to below 1"),
        ("warmup_ratio=1", "--set warmup_ratio=1.0: must be 0 to below 1"),
        ("margin_warmup_ratio=1.5", "--set margin_warmup_ratio=1.5: must be 0 to 1"),
        ("embedding_dim=0", "--set embedding_dim=0: must be at least 1"),
        ("optimizer=adam", "--set optimizer=adam: must be adamw or sgd"),
        ("normalization=none", "--set normalization=none: must be arcface or imagenet"),
        ("mixed_precision=int8", "--set mixed_precision=int8: must be no, bf16 or fp16"),
        ("progressive_size=16", "--set progressive_size=16: must be 0, or 32 to less than input_size"),
        ("progressive_size=112", "--set progressive_size=112: must be 0, or 32 to 111"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(setting: str, message: str):
    with pytest.raises(UsageError, match=message) as caught:
        load_config(settings=[setting])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("epochs = ", ""), ("[net]\nepochs = 3\n", "no setting 'net'"), ('lr = "1"', "setting lr='1' is not of type")],
)
def test_a_file_that_does_not_fit_is_named(text: str, message: str, tmp_path: Path):
    (tmp_path / "train.toml").write_text(text)
    with pytest.raises(UsageError, match=f"train.toml: {message}"):
        load_config(tmp_path / "train.toml")


def test_no_such_file(tmp_path: Path):
    with pytest.raises(UsageError, match=r"none\.toml: .*No such file"):
        load_config(tmp_path / "none.toml")


def test_the_page_of_all_keys_is_noticed_to_be_old(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; import training_config_reference as it; it.PAGE = Path(sys.argv.pop())\n"
        "sys.argv = ['', '--check']; print(it.main()); sys.argv.pop(); it.main(); sys.argv.append('--check')\n"
        "print(it.main()); it.PAGE.write_text(it.PAGE.read_text().replace('`0.003`', '`0.1`')); print(it.main())\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "page.md")]
    done = subprocess.run(words, cwd=ROOT / "scripts", capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "0", "1"]
    page = (tmp_path / "page.md").read_text()
    assert all(f"| `{key}` | `" in page for key in KEYS)
