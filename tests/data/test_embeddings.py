import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ltcli.core.errors import DataError, ParamError
from ltcli.data import embeddings
from ltcli.data.source_table import Request

FEATURES = np.array([[0.5, -2], [1e-3, 7], [3, 0.25], [4, 5]], np.float32)
LABELS = np.array([3, 12, 3, 7])


def load(root, labels=None, class_names=None, **options):
    named = {"labels": labels, "class_names": class_names}
    named = {option: str(path) for option, path in named.items() if path is not None}
    return embeddings.read(Request("embeddings", root, named, options=options))


def refused(root, labels=None, error=DataError, **options):
    with pytest.raises(error) as caught:
        load(root, labels, **options)
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
    "nothing": ({"x": FEATURES, "y": LABELS}, "must have features and labels, got x, y"),
    "an empty label": (
        {"features": FEATURES, "labels": np.array(["a", "b", "", "a"])},
        "labels must be classes, got an empty one in row 2 of the train part",
    ),
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


NAMED = "say which they are with --features-key and --labels-key"
HINTS = {
    "nothing": NAMED,
    "test alone": NAMED,
    "an empty label": "fill it in, or leave the row out",
}


@pytest.mark.parametrize("name", BAD)
def test_arrays_of_another_form_are_refused(tmp_path, name):
    arrays, rule = BAD[name]
    np.savez(tmp_path / "x.npz", **arrays)
    hint = HINTS.get(name)
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


LABEL = "header must have one of the columns label, labels, class, fine_label, got"
CSV = {
    "": (f": {LABEL} ''", "say which it is with --labels-key"),
    "a,b\n1,2\n": (f": {LABEL} 'a,b'", "say which it is with --labels-key"),
    "label\n1\n": (
        ": header must have columns of features, got 'label'",
        "say how their names start with --features-key",
    ),
    "label,a,b\n1,2,3\n1,2\n": (":3: must have 3 cells, got 2", None),
    "label,a,b\n1,2,x\n": (
        ":2: must be numbers: could not convert string to float: 'x'",
        "say how the columns of features start with --features-key",
    ),
    "label,a,b\n1,2,inf\n": (": features must be finite, got NaN or infinity in row 0", None),
    'label,a,b\n1,2,"3\n': (":2: must be CSV: unexpected end of data", None),
    "a,label\n1,x\n2,\n": (
        ":3: label must be a class, got an empty cell",
        "fill it in, or remove the line",
    ),
}


@pytest.mark.parametrize("text", CSV)
def test_a_table_of_another_form_is_refused(tmp_path, text):
    path = tmp_path / "x.csv"
    path.write_text(text)
    line, hint = CSV[text]
    assert refused(path) == [f"{path}{line}", hint]


FILES = ["a/1.jpg", "b.jpg", "c.jpg", "d.jpg"]


def named_npz(path):
    parts = {"train_X": FEATURES, "train_y": LABELS, "train_id": FILES}
    np.savez(path, **parts, test_X=FEATURES[:1], test_y=LABELS[:1], test_id=["t.jpg"])


def named_table(path):
    lines = [
        f"9,{file},{a},{b},{label}.0"
        for file, (a, b), label in zip(FILES, FEATURES.tolist(), LABELS, strict=True)
    ]
    path.write_text("\n".join([",id,X0,X1,y", *lines, ""]))


def named_parquet(path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as pq

    columns = {"X": list(FEATURES), "y": LABELS.astype(float), "id": FILES, "image": [b"x"] * 4}
    pq.write_table(pyarrow.table(columns), path)


@pytest.mark.parametrize(
    ("name", "write"), [("x.npz", named_npz), ("x.csv", named_table), ("x.parquet", named_parquet)]
)
def test_arrays_and_columns_are_named_by_options(tmp_path, name, write):
    write(tmp_path / name)
    options = {"features_key": "X", "labels_key": "y"}
    pool = load(tmp_path / name, **options, path_column="id")
    check(pool)
    assert pool.train.files == tuple(FILES)
    assert pool.test is None or pool.test.files == ("t.jpg",)
    assert load(tmp_path / name, **options).train.files == ()


def test_names_of_files_are_kept_under_their_common_name(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, features=FEATURES, labels=LABELS, files=FILES)
    assert load(path).train.files == tuple(FILES)
    table(tmp_path / "x.csv", "float32")
    lines = (tmp_path / "x.csv").read_text().splitlines()
    cells = ["filename", *FILES]
    rows = [f"{cell},{line}" for cell, line in zip(cells, lines, strict=True)]
    (tmp_path / "x.csv").write_text("\n".join(rows))
    pool = load(tmp_path / "x.csv")
    check(pool)
    assert pool.train.files == tuple(FILES)
    # Two files of one part are joined with their names.
    for number, rows in enumerate((slice(0, 3), slice(3, 4))):
        (tmp_path / "d").mkdir(exist_ok=True)
        arrays = {"features": FEATURES[rows], "labels": LABELS[rows], "files": FILES[rows]}
        np.savez(tmp_path / "d" / f"train-{number}.npz", **arrays)
    assert load(tmp_path / "d").train.files == tuple(FILES)


def test_names_of_files_are_of_every_part_or_of_none(tmp_path):
    path = tmp_path / "x.npz"
    parts = {"test_features": FEATURES[:1], "test_labels": LABELS[:1]}
    np.savez(path, features=FEATURES, labels=LABELS, files=FILES, **parts)
    rule = "must have names of files in every part or in none, got those of train"
    assert refused(path) == [f"{path}: {rule}", None]
    np.savez(path, features=FEATURES, labels=LABELS)
    rule = "must have id beside features, got none"
    assert refused(path, path_column="id") == [f"{path}: {rule}", None]
    np.savez(path, features=FEATURES, labels=LABELS, files=FILES[:3])
    assert refused(path) == [f"{path}: files must be as many as features, 4, got 3", None]
    (tmp_path / "d").mkdir()
    np.savez(tmp_path / "d" / "train-0.npz", features=FEATURES, labels=LABELS, files=FILES)
    np.savez(tmp_path / "d" / "train-1.npz", features=FEATURES, labels=LABELS)
    rule = f"must have names of files as {tmp_path}/d/train-0.npz, or neither of them"
    assert refused(tmp_path / "d") == [f"{tmp_path}/d/train-1.npz: {rule}", None]


def test_wrong_keys_are_refused(tmp_path):
    npz(tmp_path / "x.npz", "float32")
    line = f"{tmp_path}/x.npz: must have features and labels, got features, labels, other"
    assert refused(tmp_path / "x.npz", features_key="X", labels_key="y") == [line, NAMED]
    table(tmp_path / "x.csv", "float32")
    line = f"{tmp_path}/x.csv: header must have columns that start with 'X', got 'x0,label,x1'"
    hint = "say how their names start with --features-key"
    assert refused(tmp_path / "x.csv", features_key="X") == [line, hint]
    labels = npy(tmp_path / "x.npy", "float32")
    line = "split: features_key must not be given for an npy file, which holds one array"
    assert refused(tmp_path / "x.npy", labels, ParamError, features_key="X") == [
        line,
        "leave the option out",
    ]
    parquet(tmp_path / "x.parquet", "float32")
    line = f"{tmp_path}/x.parquet: must have one column 'X', got 'features,label'"
    assert refused(tmp_path / "x.parquet", features_key="X") == [line, NAMED]


def test_labels_may_be_whole_numbers_written_as_floats(tmp_path):
    for dtype in (np.float32, np.float64):
        np.savez(tmp_path / "x.npz", features=FEATURES, labels=LABELS.astype(dtype))
        check(load(tmp_path / "x.npz"))
    for value in (np.nan, np.inf, 1e300, 0.5):
        np.savez(tmp_path / "x.npz", features=FEATURES, labels=np.array([0, 1, 2, value]))
        rule = "labels must be whole numbers or text [N], got float64 [4]"
        assert refused(tmp_path / "x.npz") == [f"{tmp_path}/x.npz: {rule}", None]


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
