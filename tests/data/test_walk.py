import os

import pytest

from ltcli.data.walk import MAX_DEPTH, walk


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def link(root, name, target):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).symlink_to(target)


def text(name):
    return "is text" if name.endswith(".txt") else None


def found(root, *folders, **options):
    made = walk(root, folders or [""], text, **options)
    files = {top: sorted(files) for top, files in made.files.items()}
    return files, sorted(map(str, made.harmless)), sorted(map(str, made.bad))


def test_files_have_their_sizes_and_others_a_reason(tmp_path):
    put(tmp_path, "a/1", "a/b/22", "a/c.txt", ".hidden/3", "d")
    made = walk(tmp_path, ["a"], text)
    assert made.files == {"a": {"a/1": 3, "a/b/22": 6}}
    assert (list(map(str, made.harmless)), made.bad) == (["a/c.txt: is text"], [])
    files, harmless, _ = found(tmp_path)
    assert files == {"": ["a/1", "a/b/22", "d"]}
    assert harmless == [".hidden: is hidden", "a/c.txt: is text"]


@pytest.mark.parametrize("target", [".", "..", "../..", "../../a", "b"])
def test_a_loop_ends(tmp_path, target):
    put(tmp_path, "a/b/1")
    link(tmp_path, "a/b/loop" if target != "b" else "a/loop", target)
    files, harmless, bad = found(tmp_path, "a")
    assert (files, bad) == ({"a": ["a/b/1"]}, [])
    assert len(harmless) == 1
    assert ": is the same folder as " in harmless[0]


def test_many_links_to_many_links_take_a_step_each(tmp_path):
    """Each of 20 folders has two links to the next: a million paths, and 20 folders."""
    for number in range(20):
        (tmp_path / f"{number}").mkdir()
        for name in ("x", "y"):
            link(tmp_path, f"{number}/{name}", f"../{number + 1}")
    put(tmp_path, "20/1")
    files, harmless, bad = found(tmp_path, "0")
    deep = "0" + "/x" * 16
    rule = "is more than 16 folders below its class"
    assert (files, bad) == ({"0": []}, [f"{deep}/x: {rule}", f"{deep}/y: {rule}"])
    assert len(harmless) == 16
    assert found(tmp_path)[0] == {"": ["20/1"]}


def test_a_real_name_counts_before_a_link_and_the_first_of_real_names(tmp_path):
    put(tmp_path, "a/m", "z/1")
    link(tmp_path, "a/a", "m")
    os.link(tmp_path / "a" / "m", tmp_path / "a" / "n")
    link(tmp_path, "a/b", "../z")
    files, harmless, bad = found(tmp_path)
    assert (files, bad) == ({"": ["a/m", "z/1"]}, [])
    same = ["a/a: is the same file as a/m", "a/b: is the same folder as z"]
    assert harmless == [*same, "a/n: is the same file as a/m"]
    files, harmless, _ = found(tmp_path, once=False)
    assert (files, harmless) == ({"": ["a/a", "a/m", "a/n", "z/1"]}, same[1:])


def test_the_same_below_another_folder_is_bad(tmp_path):
    put(tmp_path, "a/1", "b/2")
    link(tmp_path, "b/1", "../a/1")
    link(tmp_path, "a/x", "../b")
    link(tmp_path, "c", "a")
    files, harmless, bad = found(tmp_path, "a", "b", "c")
    assert (files, harmless) == ({"a": ["a/1"], "b": ["b/2"], "c": []}, [])
    assert bad == [
        "a/x: is the same folder as b",
        "b/1: is the same file as a/1",
        "c: is the same folder as a",
    ]


def test_links_out_of_the_root_are_followed_and_those_to_nowhere_bad(tmp_path):
    put(tmp_path, "out/1", "out/deep/2")
    link(tmp_path, "in/x", tmp_path / "out")
    link(tmp_path, "in/y.txt", "nowhere")
    link(tmp_path, "in/z", "z")
    files, harmless, bad = found(tmp_path / "in")
    assert files == {"": ["x/1", "x/deep/2"]}
    assert (harmless, bad) == (["y.txt: is text"], ["z: is a link that leads nowhere"])


def test_depth_is_limited_through_links_too(tmp_path):
    put(tmp_path, "out/" + "d/" * MAX_DEPTH + "1")
    link(tmp_path, "in/x", tmp_path / "out")
    below = "x" + "/d" * MAX_DEPTH
    assert found(tmp_path / "in") == (
        {"": []},
        [],
        [f"{below}: is more than {MAX_DEPTH} folders below its class"],
    )


def test_a_missing_folder_has_no_files(tmp_path):
    assert walk(tmp_path / "none", [""], text).files == {"": {}}
