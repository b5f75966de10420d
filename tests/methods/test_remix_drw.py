def test_the_record_says_what_the_paper_says(options):
    params = options("remix-drw", "pretrain")
    assert (params.mixup, params.mixed_labels) == (1.0, "remix")
    assert (params.remix_ratio, params.remix_below) == (3.0, 0.5)
    assert (params.beta, params.defer, params.reduction) == (0.9999, 160, "weighted-mean")


def test_a_run_is_that_of_remix_until_the_switch_and_no_longer(kept):
    # Of two epochs the second one has the weights.
    base, deferred = kept("remix"), kept("remix-drw")
    moved = [name for name in base if not name.endswith(("epoch", "classifier.scales"))]
    assert all(deferred[name][0].equal(base[name][0]) for name in moved)
    weight = "classifier.weight"
    assert not deferred[weight][1].equal(base[weight][1])
