"""Small dictionaries in the layout of every family that `darkfield convert` knows, with what numpy makes of them in float64,
and npz archives as numpy writes them.

    python3 tests/golden/convert_oracle.py      # rewrites tests/golden/convert/
"""
import pathlib
import zipfile

import numpy as np

HERE = pathlib.Path(__file__).parent / "convert"


def archive(path, arrays, method):
    """np.savez with fixed dates, so that a new run of this script changes nothing."""
    with zipfile.ZipFile(path, "w", method) as out:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(name + ".npy", (1980, 1, 1, 0, 0, 0))
            info.compress_type = method
            with out.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array)


def npz():
    """Element i of an array of n is i * (i + 1) / 2, counted in C order."""
    folder = HERE / "npz"
    folder.mkdir(parents=True, exist_ok=True)

    def numbers(shape, dtype):
        i = np.arange(int(np.prod(shape)))
        return (i * (i + 1) // 2).astype(dtype).reshape(shape)
    arrays = {
        "W_enc": np.asfortranarray(numbers((5, 7), "<f4")),
        "W_dec": numbers((7, 5), "<f4"),
        "b_enc": numbers((7,), "<f8"),
        "half": numbers((2, 3, 4), "<f2"),
        "cube": np.asfortranarray(numbers((2, 3, 4), "<i8")),
        "k": np.array(0, "<i4"),
        "none": np.zeros((0, 3), "<f4"),
    }
    archive(folder / "stored.npz", arrays, zipfile.ZIP_STORED)
    archive(folder / "deflated.npz", arrays, zipfile.ZIP_DEFLATED)
    archive(folder / "big_endian.npz", {"x": numbers((3,), ">f4")}, zipfile.ZIP_STORED)
    archive(folder / "bomb.npz", {"x": np.zeros((4000, 5000), "<f4")}, zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    npz()
