import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ltcli.core.errors import DataError, ParamError
from ltcli.data import embeddings
from ltcli.data.source_table import Request

FEATURES = np.array([[0.5, -2], [1e-3, 7], [3, 0.25], [4, 5]], np.float32)
LABELS = np.array([3, 12, 3, 7])


def load(root, labels=None, class_names=None):
    named = {"labels": labels, "class_names": class_names}
    named = {option: str(path) for option, path in named.items() if path is not None}
    return embeddings.read(Request("embeddings", root, named))


def refused(root, labels=None, error=DataError):
    with pytest.raises(error) as caught:
        load(root, labels)
    return [str(caught.value), caught.value.hint]


def check(pool, names=("3", "7", "12")):
    assert (pool.store, pool.class_names) == ("features", names)
    assert pool.train.data.dtype == torch.float32
    np.testing.assert_array_equal(pool.train.data.numpy(), FEATURES)
    assert [pool.class_names[label] for label in pool.train.labels] == [*map(str, LABELS)]


def npy(path, dtype):
    np.save(path.with_name("y.npy"), LABELS)
    np.save(path, FEATURES.astype(dtype))
    return path.with_name("y.npy")


def npz(path, dtype):
    np.savez(path, features=FEATURES.astype(dtype), labels=LABELS, other=np.zeros(3))


def tensors(path, dtype):
    made = {
        "features": torch.from_numpy(FEATURES.astype(dtype)),
        "labels": torch.from_numpy(LABELS),
    }
    save_file({**made, "other": torch.zeros(2)}, path)


def table(path, dtype):
    lines = [f"{a},{label},{b}" for (a, b), label in zip(FEATURES.tolist(), LABELS, strict=True)]
    path.write_text("\n".join(["x0,label,x1", *lines, ""]))


def parquet(path, dtype):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as pq

    # The two kinds of lists that writers make of a matrix.
    size = {"float32": -1, "float64": 2}.get(dtype, -1)
    kind = pyarrow.list_(pyarrow.from_numpy_dtype(np.dtype(dtype)), size)
    cells = pyarrow.array(list(FEATURES.astype(dtype)), kind)
    pq.write_table(pyarrow.table({"features": cells, "label": LABELS}), path, row_group_size=3)


FORMS = {"x.npy": npy, "x.npz": npz, "x.safetensors": tensors, "x.csv": table, "x.parquet": parquet}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_pool(tmp_path, name, dtype):
    labels = FORMS[name](tmp_path / name, dtype)
    pool = load(tmp_path / name, labels)
    check(pool)
    assert (pool.val, pool.test) == (None, None)


def test_half_precision_becomes_single(tmp_path):
    exact = torch.tensor([[0.5, -2.0], [3.0, 0.25]])
    path = tmp_path / "x.safetensors"
    for dtype in (torch.bfloat16, torch.float16):
        save_file({"features": exact.to(dtype), "labels": torch.tensor([0, 1])}, path)
        assert load(path).train.data.equal(exact)


def test_a_file_may_hold_all_parts(tmp_path):
    labels = np.array(["oak", "elm", "oak", "fir"])
    parts = {"train_features": FEATURES, "train_labels": labels}
    parts |= {"test_features": FEATURES[:1], "test_labels": labels[3:]}
    np.savez(tmp_path / "x.npz", **parts)
    pool = load(tmp_path / "x.npz")
    assert pool.class_names == ("elm", "fir", "oak")
    assert (pool.train.labels.tolist(), pool.test.labels.tolist()) == ([2, 0, 2, 1], [1])
    made = {"features": torch.from_numpy(FEATURES), "labels": torch.from_numpy(LABELS)}
    made |= {"val.features": torch.ones(1, 2), "val.labels": torch.tensor([12])}
    save_file(made, tmp_path / "x.safetensors")
    pool = load(tmp_path / "x.safetensors")
    assert (pool.val.labels.tolist(), pool.test) == ([2], None)


def test_a_folder_holds_a_file_or_more_for_each_part(tmp_path):
    for name, rows in (("train-0", slice(0, 3)), ("train-1", slice(3, 4)), ("test", slice(2))):
        np.savez(tmp_path / f"{name}.npz", features=FEATURES[rows], labels=LABELS[rows])
    pool = load(tmp_path)
    check(pool)
    assert pool.test.labels.tolist() == [0, 2]
    np.savez(tmp_path / "train-1.npz", features=np.ones((1, 3)), labels=LABELS[:1])
    line = f"{tmp_path}/train-1.npz: dimension must be 2 as in {tmp_path}/train-0.npz, got 3"
    assert refused(tmp_path) == [line, None]
    np.savez(tmp_path / "train-1.npz", test_features=np.ones((1, 2)), test_labels=LABELS[:1])
    rule = "must have features and labels of one part, as its name says the part"
    assert refused(tmp_path) == [f"{tmp_path}/train-1.npz: {rule}", None]


def test_names_of_classes_are_the_lines_of_a_file(tmp_path):
    (tmp_path / "names").write_text("a\nb\n")
    np.savez(tmp_path / "x.npz", features=FEATURES, labels=np.array([1, 0, 0, 1]))
    pool = load(tmp_path / "x.npz", None, tmp_path / "names")
    assert (pool.class_names, pool.train.labels.tolist()) == (("a", "b"), [1, 0, 0, 1])


def with_value(value):
    features = FEATURES.copy()
    features[2, 1] = value
    return features


BAD = {
    "no labels": ({"features": FEATURES}, "must have labels beside features, got none"),
    "nothing": ({"x": FEATURES}, "must have features and labels of the training part, got none"),
    "test alone": (
        {"test_features": FEATURES, "test_labels": LABELS},
        "must have features and labels of the training part, got none",
    ),
    "twice": (
        {
            "features": FEATURES,
            "labels": LABELS,
            "train_features": FEATURES,
            "train_labels": LABELS,
        },
        "must have features or train_features, got both",
    ),
    "whole numbers": (
        {"features": FEATURES.astype(int), "labels": LABELS},
        "features must be floating point [N, D], got int64 [4, 2]",
    ),
    "one axis": (
        {"features": FEATURES[0], "labels": LABELS},
        "features must be floating point [N, D], got float32 [2]",
    ),
    "no dimension": (
        {"features": FEATURES[:, :0], "labels": LABELS},
        "features must be floating point [N, D], got float32 [4, 0]",
    ),
    "not a number": (
        {"features": with_value(np.nan), "labels": LABELS},
        "features must be finite, got NaN or infinity in row 2",
    ),
    "beyond single precision": (
        {"features": np.full((4, 2), 1e39), "labels": LABELS},
        "features must be finite, got NaN or infinity in row 0",
    ),
    "too few labels": (
        {"features": FEATURES, "labels": LABELS[:3]},
        "labels must be as many as features, 4, got 3",
    ),
    "fractions as labels": (
        {"features": FEATURES, "labels": LABELS / 2},
        "labels must be whole numbers or text [N], got float64 [4]",
    ),
    "one-hot labels": (
        {"features": FEATURES, "labels": np.eye(4, dtype=int)},
        "labels must be whole numbers or text [N], got int64 [4, 4]",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_arrays_of_another_form_are_refused(tmp_path, name):
    arrays, rule = BAD[name]
    np.savez(tmp_path / "x.npz", **arrays)
    hint = "name them features and labels" if "training part" in rule else None
    assert refused(tmp_path / "x.npz") == [f"{tmp_path}/x.npz: {rule}", hint]


def test_labels_in_a_file_of_their_own_are_named_by_it(tmp_path):
    features, labels = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(features, FEATURES)
    np.save(labels, LABELS / 2)
    rule = "labels must be whole numbers or text [N], got float64 [4]"
    assert refused(features, labels) == [f"{labels}: {rule}", None]


def test_columns_that_may_be_no_features_are_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(",a,label\n0,1.5,0\n1,2.5,1\n")
    hint = "leave the numbers of the rows out (pandas: index=False)"
    assert refused(path) == [f"{path}: column 1 must have a name, got none", hint]
    path.write_text("a,label,a\n0,1,0\n1,0,1\n")
    assert refused(path) == [f"{path}: header must have each column once, got 'a' again", None]


CSV = {
    "": ": header must have one column 'label' and columns of features, got ''",
    "a,b\n1,2\n": ": header must have one column 'label' and columns of features, got 'a,b'",
    "label\n1\n": ": header must have one column 'label' and columns of features, got 'label'",
    "label,a,b\n1,2,3\n1,2\n": ":3: must have 3 cells, got 2",
    "label,a,b\n1,2,x\n": ":2: must be numbers: could not convert string to float: 'x'",
    "label,a,b\n1,2,inf\n": ": features must be finite, got NaN or infinity in row 0",
    'label,a,b\n1,2,"3\n': ":2: must be CSV: unexpected end of data",
}


@pytest.mark.parametrize("text", CSV)
def test_a_table_of_another_form_is_refused(tmp_path, text):
    path = tmp_path / "x.csv"
    path.write_text(text)
    assert refused(path) == [f"{path}{CSV[text]}", None]


def test_lists_of_several_lengths_are_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as pq

    path = tmp_path / "x.parquet"
    pq.write_table(pyarrow.table({"features": [[1.0], [1.0, 2.0]], "label": [0, 1]}), path)
    rule = "column 'features' must hold lists of one length, got [1, 2]"
    assert refused(path) == [f"{path}: {rule}", None]
    pq.write_table(pyarrow.table({"features": [1.0, 2.0], "label": [0, 1]}), path)
    assert refused(path) == [f"{path}: column 'features' must hold lists, got double", None]
    pq.write_table(pyarrow.table({"features": [[1.0], [None]], "label": [0, 1]}), path)
    rule = "features must be finite, got NaN or infinity in row 1"
    assert refused(path) == [f"{path}: {rule}", None]


def test_nothing_is_unpickled(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, features=FEATURES, labels=np.array([{}, 1, 2, 3], object))
    assert refused(path)[0].startswith(f"{path}: must be an npz file of plain arrays: ")
    path = tmp_path / "x.npy"
    np.save(path, np.array([[{}]], object))
    assert refused(path, path)[0].startswith(f"{path}: must be an npy file of a plain array: ")


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("x.npz", "must be an npz file of plain arrays: "),
        ("x.safetensors", "must be a safetensors file, got another: "),
    ],
)
def test_another_file_is_refused(tmp_path, name, rule):
    path = tmp_path / name
    path.write_bytes(b"something else")
    assert refused(path)[0].startswith(f"{path}: {rule}")


def test_a_damaged_archive_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, features=np.random.default_rng(0).random((50, 8)), labels=[0] * 50)
    data = bytearray(path.read_bytes())
    # Inside the packed features: the checksum is behind them, and unpacking fails before.
    data[200:208] = b"\xff" * 8
    path.write_bytes(data)
    assert refused(path)[0].startswith(f"{path}: must be an npz file of plain arrays: ")
    # Encrypted, by the flag of its directory.
    npz(path, "float32")
    data = bytearray(path.read_bytes())
    for at in (data.find(b"PK\x01\x02") + 8, 6):
        data[at] |= 1
    path.write_bytes(data)
    assert refused(path)[0].startswith(f"{path}: must be an npz file of plain arrays: ")


def test_a_header_of_npy_that_is_no_python_is_refused(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, FEATURES)
    np.save(tmp_path / "y.npy", LABELS)
    path.write_bytes(path.read_bytes().replace(b"}", b"("))
    found = refused(path, tmp_path / "y.npy")[0]
    assert found.startswith(f"{path}: must be an npy file of a plain array: ")


def test_labels_are_whole_numbers_or_text(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {"features": torch.ones(4, 2), "labels": torch.zeros(4, dtype=torch.bfloat16)}
    save_file(tensors, path)
    line = f"{path}: labels must be whole numbers or text [N], got bfloat16 [4]"
    assert refused(path) == [line, None]


def test_labels_belong_to_an_npy_file(tmp_path):
    labels = npy(tmp_path / "x.npy", "float32")
    line = f"split: labels must be given, as {tmp_path}/x.npy holds features alone"
    hint = "name an npy file with --labels"
    assert refused(tmp_path / "x.npy", error=ParamError) == [line, hint]
    npz(tmp_path / "x.npz", "float32")
    line = f"split: labels must go with an npy file of features, got {tmp_path}/x.npz"
    hint = "other files hold their own labels"
    assert refused(tmp_path / "x.npz", labels, error=ParamError) == [line, hint]
