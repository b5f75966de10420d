from ltcli.methods.class_balanced_finetuning import METHOD


def test_each_class_is_drawn_equally_often_and_the_whole_network_moves():
    defaults = METHOD.defaults["finetune"]
    assert defaults["sampler"] == "class-aware"
    assert (defaults["data"], defaults["train"]) == ("images", "all")


def test_the_sampler_decides_whether_it_balances(options):
    assert not METHOD.balances(options("class-balanced-finetuning", "finetune"))
