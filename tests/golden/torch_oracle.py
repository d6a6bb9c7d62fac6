"""Makes tests/golden/torch: small checkpoints by torch.save, and what is in them (expected.json).
Run: python3 tests/golden/torch_oracle.py (torch 1.13)"""

import collections
import json
import pathlib

import torch

HERE = pathlib.Path(__file__).resolve().parent / "torch"


class Settings:
    """An object of a class that no reader should import."""

    def __init__(self):
        self.width = 4


def expected(tensors):
    return {name: {"dtype": str(t.dtype)[6:], "shape": list(t.shape), "values": t.detach().to(torch.float64).flatten().tolist()}
            for name, t in tensors.items()}


def main():
    torch.manual_seed(5)
    HERE.mkdir(exist_ok=True)
    base = torch.randn(6, 4)
    state = collections.OrderedDict(
        (("wte.weight", torch.nn.Parameter(base)), ("lm_head.weight", base), ("turned", base.t()), ("part", base[1:4, ::2]),
         ("spread", torch.arange(3.0).expand(2, 3)), ("half", base.half()), ("brain", base.bfloat16()), ("double", base.double()),
         ("long", torch.tensor([1, -2, 2 ** 40])), ("int", torch.tensor([3, -4], dtype=torch.int32)),
         ("bytes", torch.tensor([0, 255], dtype=torch.uint8)), ("truth", torch.tensor([True, False])),
         ("scalar", torch.tensor(2.5)), ("empty", torch.empty(0, 4))))
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    nested = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "settings": Settings(), "step": 7, "note": "text"}
    torch.save(state, HERE / "state.bin")
    torch.save(nested, HERE / "nested.pt")
    torch.save(nested["model"], HERE / "protocol4.pt", pickle_protocol=4)
    torch.save(nested["model"], HERE / "legacy.pt", _use_new_zipfile_serialization=False)
    answers = {"state.bin": expected(state), "nested.pt": expected(model.state_dict()),
               "protocol4.pt": expected(model.state_dict())}
    (HERE / "expected.json").write_text(json.dumps(answers) + "\n")


if __name__ == "__main__":
    main()
