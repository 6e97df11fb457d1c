"""The page of exported weights on a model hub: README.md with its head, and config.json."""

import json
from pathlib import Path
from typing import NamedTuple

from ddrnet_jax.weights import shipped

PAGE, CONFIG = "README.md", "config.json"
PAPER = "2101.06085"  # on arXiv


class Terms(NamedTuple):
    """The terms of a data set, which weights trained on it carry: the hub's word for them, and a sentence."""

    license: str
    text: str


_OWN = Terms("other", "Trained on data of its author's: say here under which terms, before others see this page.")
_TERMS = {
    "scenes": Terms("apache-2.0", "Trained on scenes that ddrnet_jax draws: free as its code is, Apache-2.0."),
    "camvid": Terms(
        "other",
        "Trained on CamVid (Brostow et al., 2008), which was published for research and names no further licence: "
        "for research. http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
    ),
    "cityscapes": Terms(
        "other",
        "Trained on Cityscapes, whose licence allows research and teaching and no commercial use: "
        "https://www.cityscapes-dataset.com/license/",
    ),
    "coco_stuff_10k": Terms(
        "other", "Trained on COCO-Stuff: labels CC BY 4.0, images under the terms of Flickr and their owners."
    ),
    "imagenet": Terms(
        "other",
        "Trained on ImageNet, which is for non-commercial research and education: https://image-net.org/download.php",
    ),
}
_TERMS["coco_stuff_164k"] = _TERMS["coco_stuff_10k"]
NOT_FOR = (
    "Not for driving, and for nothing else that people's safety or rights depend on. A network knows what its training "
    "images show: other cities, weather, nights, cameras and views it has not seen, and it says a class of every "
    "pixel, of what is none of its classes too."
)


def terms(config: dict) -> Terms:
    """The terms that weights of a run carry: those of its data, and of the networks that it began with or learnt from.

    config  JSON values, as the run keeps them
    """
    data = _TERMS.get(config["data"]["name"], _OWN)
    others = {
        "init_from": config.get("init_from"),
        "distill.teacher": config.get("distill", {}).get("teacher"),
        "data.pseudo_root": config["data"].get("pseudo_root"),
    }
    given = [key for key, value in others.items() if value]
    if not given:
        return data
    more = f" Other weights had a part in it ({', '.join(given)}), and their terms hold too: "
    if given == ["init_from"] and others["init_from"] in shipped.NAMES:
        return Terms("other", f"{data.text}{more}it began with {others['init_from']}. {_TERMS['camvid'].text}")
    return Terms("other", f"{data.text}{more}say here which, before others see this page.")


def files(card: dict, weights_file: Path) -> dict[str, str]:
    """{name: text} of the page's files, which lie beside the weights.

    card  of the exported weights
    """
    head = "\n".join(f"{key}: {json.dumps(value)}" for key, value in _head(card).items())  # JSON is YAML too
    return {
        PAGE: f"---\n{head}\n---\n\n{_text(card, weights_file)}",
        CONFIG: json.dumps({"model_type": "ddrnet", "library_name": "ddrnet_jax"} | card["config"], indent=2) + "\n",
    }


def _head(card: dict) -> dict:
    """The keys by which a hub lists a model. Source: huggingface.co/docs/hub/model-cards."""
    data_set, is_segmenter = card["config"]["data"]["name"], card["task"] == "segmentation"
    task = "image-segmentation" if is_segmenter else "image-classification"
    head: dict = {
        "license": card["license"],
        "library_name": "ddrnet_jax",
        "pipeline_tag": task,
        "tags": ["ddrnet", "jax", "flax", "real-time", f"arxiv:{PAPER}"],
    }
    if head["license"] == "other":
        head |= {"license_name": "terms-of-the-training-data", "license_link": f"{PAGE}#licence"}
    if data_set != "folder":
        head["datasets"] = [data_set]
    name, score = ("mean_iou", card.get("val_miou")) if is_segmenter else ("accuracy", card.get("val_top1"))
    head["metrics"] = [name]
    if score is not None:
        split = card["config"]["data"]["eval_split"]
        result = {
            "task": {"type": task},
            "dataset": {"type": data_set, "name": data_set, "split": split},
            "metrics": [{"type": name, "value": score}],
        }
        head["model-index"] = [{"name": card["network"], "results": [result]}]
    return head


def _text(card: dict, weights_file: Path) -> str:
    config, data_set = card["config"], card["config"]["data"]["name"]
    score = card.get("val_miou", card.get("val_top1"))
    evaluated = "not evaluated" if score is None else f"{100 * score:.2f} % on its split {config['data']['eval_split']}"
    rows = {
        "network": f"{card['network']}, {card['task']}, {len(card['classes'])} classes",
        "data": data_set,
        "mIoU" if card["task"] == "segmentation" else "top-1": evaluated,
        "training": _training(card),
        "tensors": f"names of {card['naming']}, {card['dtype']}",
        "sha256": f"of `{weights_file.name}`: `{card['file_sha256']}`",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    classes = ", ".join(card["classes"][:40]) + (", ..." if len(card["classes"]) > 40 else "")
    mean, deviation = (", ".join(f"{value:g}" for value in card["input"][key]) for key in ("mean", "std"))
    return f"""# {card["network"]} ({data_set})

Weights of [DDRNet](https://arxiv.org/abs/{PAPER}) for ddrnet_jax.

| | |
|---|---|
{table}

Classes: {classes}.

Input: RGB from 0 to 1, less ({mean}), over ({deviation}). `{CONFIG}` is the config of its training, key by key.

## Use

```python
from ddrnet_jax import load

segmenter = load("{weights_file.name}")  # or hf://OWNER/REPO/{weights_file.name}
mask = segmenter.predict(photo)  # u8[H,W,3] RGB -> u8[H,W] train ids
```

## Limits

{NOT_FOR}

## Licence

{card["terms"]}
"""


def _training(card: dict) -> str:
    config = card["config"]
    text = f"{config['total_steps']} steps of {config['batch_size']} images, seed {config['seed']}"
    return text + (f", {card['training_hours']:.1f} hours" if card.get("training_hours") else "")
