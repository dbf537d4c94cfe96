"""Make the OpenCLIP goldens: small random checkpoints in its own dress and what OpenCLIP answers for them.

Needs PyTorch, open_clip_torch 3.3.0 and torchvision, which Imago does not; see make_clip.py. It overwrites
open-clip-*/ and open_clip.npz beside it.

`open-clip-plain` has the settings of the published checkpoints. `open-clip-averaged` and
`open-clip-scaled` have all others that are read: odd head widths and MLPs, both further GELUs, layer
scale, other norms, no first norm, averaging before and after the last norm, texts that look both ways or
are pooled elsewhere, a text tower under its own name, a projection with a bias.
"""

import json
import sys
import types

# torchvision's operators may be built for another PyTorch than the CPU's; only its transforms are needed.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")

import numpy as np  # noqa: E402
import open_clip  # noqa: E402
import torch  # noqa: E402
from goldens import HERE, randomise  # noqa: E402
from open_clip.model import CLIP, CustomTextCLIP  # noqa: E402
from open_clip.tokenizer import SimpleTokenizer  # noqa: E402
from open_clip.transform import PreprocessCfg, image_transform_v2  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

VISION = {"layers": 2, "width": 24, "head_width": 8, "patch_size": 5, "image_size": 22}
TEXT = {"context_length": 9, "vocab_size": 40, "width": 20, "heads": 4, "layers": 2}
CASES = {
    "open-clip-plain": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT},
    "open-clip-averaged": {
        "embed_dim": 18,
        "quick_gelu": True,
        "custom_text": True,
        "init_logit_bias": -1.5,
        "vision_cfg": VISION
        | {
            "head_width": 12,
            "mlp_ratio": 3.3,
            "ls_init_value": 0.5,
            "norm_kwargs": {"eps": 1e-3},
            "pool_type": "avg",
            "final_ln_after_pool": True,
            "no_ln_pre": True,
            "patch_dropout": 0.5,
        },
        "text_cfg": TEXT | {"proj_bias": True, "no_causal_mask": True, "pool_type": "last"},
    },
    "open-clip-scaled": {
        "embed_dim": 20,
        "vision_cfg": VISION
        | {"act_kwargs": {"approximate": "tanh"}, "pool_type": "avg", "image_size": [17, 22], "layers": 3},
        "text_cfg": TEXT
        | {"ls_init_value": 0.3, "mlp_ratio": 2.7, "pool_type": "eos", "eos_id": 5, "proj_type": "none"},
    },
}
PREPROCESS = {
    "shortest": {"size": 22},
    "shortest_bilinear": {"size": 21, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3},
    "longest": {"size": 22, "resize_mode": "longest"},
    "squash": {"size": 22, "resize_mode": "squash"},
}
TEXTS = [
    "",
    "  A  Photo\n of\ta DOG ",
    "caf\u00c3\u00a9 &amp;lt;b&amp;gt;",
    "it's don't we'll 12,345.67",
    "snake_case and-hyphen (brackets)",
    "\u4e16\u754c \U0001f600 na\u00efve",
    "word " * 100,
]


def make(name: str, settings: dict) -> None:
    torch.manual_seed(0)
    keywords = dict(settings)
    kind = CustomTextCLIP if keywords.pop("custom_text", False) else CLIP
    model = kind(**keywords).eval()
    randomise(model)
    ids = torch.randint(6, 39, (3, 9))
    ids[0, 4], ids[1, 8], ids[2, 6] = (
        (5, 5, 5) if settings["text_cfg"].get("pool_type") == "eos" else (39, 39, 39)
    )
    ids[0, 5:] = 0
    size = settings["vision_cfg"]["image_size"]
    height, width = size if isinstance(size, list) else (size, size)
    pixels = torch.randn(3, 3, height, width)
    with torch.no_grad():
        expected = {
            "input_ids": ids,
            "pixel_values": pixels,
            "text_features": model.encode_text(ids),
            "image_features": model.encode_image(pixels),
            "logits_per_image": model.get_logits(pixels, ids)[0],
        }
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    config = {
        "model_cfg": settings,
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = "open_clip_pytorch_model" if kind is CustomTextCLIP else "open_clip_model"
    arrays = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(arrays, folder / f"{weights}.safetensors", metadata={"format": "pt"})
    (folder / f"{weights}.safetensors").chmod(0o644)
    np.savez_compressed(folder / "expected.npz", **{key: value.numpy() for key, value in expected.items()})


def make_inputs() -> None:
    """What OpenCLIP makes of pictures and texts before its towers see them."""
    random = np.random.default_rng(3)
    arrays = {}
    for name, (width, height) in {"wide": (61, 37), "tall": (35, 84), "small": (11, 13)}.items():
        picture = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        arrays[f"image/{name}"] = np.asarray(picture)
        for case, settings in PREPROCESS.items():
            transform = image_transform_v2(PreprocessCfg(**settings), is_train=False)
            arrays[f"{case}/{name}"] = transform(picture).numpy()
    for clean in ("lower", "whitespace", "canonicalize"):
        arrays[f"ids/{clean}"] = SimpleTokenizer(clean=clean)(TEXTS).numpy()
    about = {"preprocess": PREPROCESS, "texts": TEXTS, "open_clip": open_clip.__version__}
    np.savez_compressed(HERE / "open_clip.npz", about=np.array(json.dumps(about)), **arrays)


if __name__ == "__main__":
    for name, settings in CASES.items():
        make(name, settings)
    make_inputs()
