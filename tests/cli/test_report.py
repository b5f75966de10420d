"""report: what the command refuses before it reads any tensor."""


def test_a_folder_without_predictions_is_an_error(ltcli, tmp_path):
    done = ltcli("report", "-d", tmp_path)
    assert done.code == 3
    assert done.lines == [
        f"error: {tmp_path}: has no predictions on the test set",
        "hint: run ltcli evaluate first",
    ]


def test_a_damaged_file_is_named(ltcli, copy):
    (copy / "x.safetensors").write_bytes(b"x")
    done = ltcli("report", "-d", copy)
    assert done.code == 3
    assert done.lines == [
        f"error: {copy}/x.safetensors: not a sound artifact: it does not start with a safetensors"
        " header",
        "hint: remove it",
    ]


def test_the_file_must_be_a_page(ltcli, copy):
    done = ltcli("report", "-d", copy, "--out", copy / "split.safetensors", "--force")
    assert done.code == 2
    assert done.lines == [f"error: report: out must end in .html, got {copy}/split.safetensors"]


def test_a_folder_is_not_replaced(ltcli, copy):
    (copy / "report.html").mkdir()
    done = ltcli("report", "-d", copy, "--force")
    assert done.code == 6
    assert done.lines == [
        f"error: {copy}/report.html: must be a file, got a folder",
        "hint: choose another --out",
    ]


def test_a_place_that_cannot_be_written_is_named(ltcli, copy):
    (copy / "file").touch()
    out = copy / "file" / "report.html"
    done = ltcli("report", "-d", copy, "--out", out)
    assert done.code == 6
    assert done.lines == [
        f"error: {out}: cannot be written: {copy}/file is not a writable folder",
        "hint: choose another --out",
    ]


def test_the_folder_is_that_of_every_stage_unless_it_is_named(ltcli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = ltcli("report")
    assert (done.code, done.lines[0]) == (3, "error: artifacts: no such folder")
