import json

import pytest

from ltcli.core.errors import DataError
from ltcli.data import annotations
from ltcli.data.source_table import Request

CATEGORIES = [{"id": 7, "name": "fox"}, {"id": 2, "name": "elk"}, {"id": 5, "name": "unseen"}]


def document(pairs, categories=CATEGORIES, start=100):
    """Annotations of files in reverse order of the images, as nothing says that they agree."""
    numbered = list(enumerate(pairs, start=start))
    return {
        "info": {"year": 2018},
        "images": [{"id": i, "file_name": file, "width": 800} for i, (file, _) in numbered],
        "categories": categories,
        "annotations": [
            {"id": 9 * i, "image_id": i, "category_id": label}
            for i, (_, label) in reversed(numbered)
        ],
    }


TRAIN = [("p/2.jpg", 2), ("p/1.jpg", 2), ("q/3.jpg", 7)]


def load_annotations(train, test):
    return annotations.load_annotations(train, test, Request("inat"))


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_images_and_annotations_are_joined_by_number(tmp_path):
    train = write(tmp_path / "train.json", document(TRAIN))
    test = write(tmp_path / "val.json", document([("v/9.jpg", 7)], start=1))
    listed = load_annotations(train, test)
    assert listed.class_names == ("elk", "fox")
    assert listed.parts["train"].files == ["p/2.jpg", "p/1.jpg", "q/3.jpg"]
    assert listed.parts["train"].labels.tolist() == [0, 0, 1]
    assert listed.parts["test"].files == ["v/9.jpg"]
    assert listed.parts["test"].labels.tolist() == [1]
    assert list(load_annotations(train, None).parts) == ["train"]


def test_a_category_without_images_is_left_out_and_said(tmp_path, caplog):
    train = write(tmp_path / "train.json", document(TRAIN))
    load_annotations(train, None)
    assert caplog.messages == [f"{train}: 1 class without images left out: 'unseen'"]


def test_whole_numbers_written_as_floats_are_whole_numbers(tmp_path):
    made = document(TRAIN)
    made["annotations"] = [
        {key: float(value) for key, value in entry.items()} for entry in made["annotations"]
    ]
    found = load_annotations(write(tmp_path / "train.json", made), None)
    assert (found.class_names, found.parts["train"].labels.tolist()) == (("elk", "fox"), [0, 0, 1])


def test_categories_of_one_name_are_told_apart(tmp_path):
    categories = [{"id": 7, "name": "oak"}, {"id": 2, "name": "oak"}]
    train = write(tmp_path / "train.json", document(TRAIN, categories))
    assert load_annotations(train, None).class_names == ("oak (2)", "oak (7)")


def changed(group, place, **values):
    made = document(TRAIN)
    made[group][place] |= values
    return made


BAD = {
    "no JSON": ("{", "must be JSON, got something else"),
    "a list": ("[]", "must have a list of images, got none"),
    "no images": (document([]), "must have a list of images, got none"),
    "no annotations": (
        {k: v for k, v in document(TRAIN).items() if k != "annotations"},
        "must have a list of annotations, got none",
    ),
    "no name": (changed("images", 1, file_name=None), "images[1].file_name must be text, got None"),
    "text as id": (
        changed("annotations", 2, category_id="7"),
        "annotations[2].category_id must be a whole number, got '7'",
    ),
    "image twice": (changed("images", 1, id=100), "images must have each id once, got 100 2 times"),
    "two annotations": (
        changed("annotations", 0, image_id=100),
        "annotations must have each image_id once, got 100 2 times",
    ),
    "no such image": (
        changed("annotations", 0, image_id=50),
        "each annotation must be of one image, got no image 50",
    ),
    "unknown category": (
        changed("annotations", 0, category_id=3),
        "category_id must be one of the categories, got 3",
    ),
    "path twice": (
        changed("images", 0, file_name="q/3.jpg"),
        "each path must be listed once, got 'q/3.jpg' twice in train",
    ),
    "deep": ("[" * 100_000, "must be JSON, got something else"),
}


@pytest.mark.parametrize("name", BAD)
def test_another_form_is_refused(tmp_path, name):
    content, rule = BAD[name]
    path = write(tmp_path / "train.json", content)
    with pytest.raises(DataError) as caught:
        load_annotations(path, None)
    assert str(caught.value) == f"{path}: {rule}"


def test_test_images_have_the_categories_of_the_training_images(tmp_path):
    train = write(tmp_path / "train.json", document(TRAIN))
    test = write(tmp_path / "val.json", document([("v", 2)], CATEGORIES[:2]))
    with pytest.raises(DataError) as caught:
        load_annotations(train, test)
    assert str(caught.value) == f"{test}: categories must be those of {train}, got others"
    test = write(tmp_path / "val.json", document([("v", 5)]))
    with pytest.raises(DataError) as caught:
        load_annotations(train, test)
    rule = "class '5' must have at least 1 training image, got 0"
    assert str(caught.value) == f"{train}: {rule}"
