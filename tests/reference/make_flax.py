"""Make the Flax goldens: what the Flax models that Transformers had until version 4 save, to be read from now on here.

Needs what make_clip.py needs, and in an environment of its own the last Flax models:
pip install transformers==4.57.1 jax==0.4.30 jaxlib==0.4.30 flax==0.8.5 torch==2.13.0. It reads dual-pairs/ beside it,
made by make_dual_encoders.py, and overwrites flax-*/.
"""

import json
import shutil
import tempfile
from pathlib import Path

from safetensors.numpy import load_file, save_file
from transformers import FlaxVisionTextDualEncoderModel

HERE = Path(__file__).resolve().parent


def make(pair: str) -> None:
    source, target = HERE / "dual-pairs" / pair, HERE / f"flax-{pair}"
    with tempfile.TemporaryDirectory() as folder:
        # Version 4 does not know the names under which version 5 saves CLIP's vision tower in a pair.
        arrays = load_file(source / "model.safetensors")
        if pair.startswith("clip-"):
            old = "vision_model.vision_model."
            arrays = {name.replace("vision_model.", old): array for name, array in arrays.items()}
        save_file(arrays, f"{folder}/model.safetensors", metadata={"format": "pt"})
        shutil.copy(source / "config.json", folder)
        FlaxVisionTextDualEncoderModel.from_pretrained(folder, from_pt=True).save_pretrained(target)
    settings = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    for name in ("clip-bert", "vit-roberta", "dinov2-xlm-roberta"):
        make(name)
