"""The testbed, as `python -m xdiffda.experiments.osse STAGE`: nature, pairs, ..., sbc."""

from __future__ import annotations

import argparse
from typing import Any

from xdiffda.jax_settings import with_own_jax
from xdiffda.options import request_huge_pages


@with_own_jax
def main(arguments: list[str] | None = None) -> None:
    """Run one stage; every stage can be interrupted and called again."""
    parser = argparse.ArgumentParser(prog="python -m xdiffda.experiments.osse", description=__doc__)
    stages = parser.add_subparsers(dest="stage", required=True)
    nature = stages.add_parser("nature", help="integrate the truth (extra osse)")
    nature.add_argument("--out", default="nature")
    nature.add_argument("--stream", type=int, default=0)
    nature.add_argument("--days", type=int, default=1290)
    pairs = stages.add_parser("pairs", help="forecasts of 6 to 72 h by the trained forecaster")
    bundle = stages.add_parser("bundle", help="calibrate and write model and sample")
    evaluate = stages.add_parser("evaluate", help="score the model beside its baselines")
    publish = stages.add_parser("publish", help="copy the tables into README and model card")
    publish.add_argument("--readme", default="README.md")
    publish.add_argument("--model", default="speedy")
    for stage in (pairs, bundle, evaluate):
        stage.add_argument("--data", default="nature")
    for stage in (pairs, bundle):
        stage.add_argument("--forecaster", default="forecaster")
    for stage in (bundle, evaluate):
        stage.add_argument("--pairs", default="pairs")
    pairs.add_argument("--out", default="pairs")
    pairs.add_argument("--n-train", type=int, default=1200, dest="n_train")
    pairs.add_argument(
        "--from",
        default="forecasts",
        choices=["forecasts", "cycles", "own-cycles"],
        dest="source",
        help="forecasts from the truth, or beside them the backgrounds of cycles, "
        "of 3D-Var or of the denoiser",
    )
    pairs.add_argument(
        "--model", default="speedy", help="the prior of cycles; of 3D-Var, its s and B"
    )
    bundle.add_argument("--denoiser", default="denoiser")
    bundle.add_argument("--name", default="speedy")
    bundle.add_argument("--out", default=None, help="folder, default that of bundled models")
    bundle.add_argument("--sample-out", default=None, dest="sample_out")
    evaluate.add_argument("--model", default="speedy", help="name or folder")
    evaluate.add_argument("--out", default=None)
    evaluate.add_argument("--n-case", type=int, default=20, dest="n_case")
    evaluate.add_argument("--columns", type=int, nargs="+", default=[5, 45, 416, 1000])
    evaluate.add_argument("--costly", type=int, nargs="*", default=[416])
    evaluate.add_argument("--errors", default="quarter", choices=["quarter", "speedy-letkf"])
    evaluate.add_argument(
        "--rows", nargs="+", default=[], help="rows, or sweeps of rows, instead of the usual ones"
    )
    evaluate.add_argument("--members", type=int, default=8, dest="n_members")
    evaluate.add_argument("--ledger", help="file of the single records")
    evaluate.add_argument("--part", default="evaluation", choices=["evaluation", "validation"])
    evaluate.add_argument("--name", help="of the files in --out, default skill-<errors>")
    _add_sbc(stages)
    options = vars(parser.parse_args(arguments))
    _run(options.pop("stage"), options)


def _add_sbc(stages: Any) -> None:
    sbc = stages.add_parser("sbc", help="simulation-based calibration of the bundled model")
    sbc.add_argument("--model", default="speedy")
    sbc.add_argument(
        "--prior",
        default="model",
        choices=["model", "gaussian"],
        help="the model, or a Gaussian with its s and B and no network",
    )
    sbc.add_argument("--out", default=None, help="folder of sbc.json")
    sbc.add_argument("--figure", default=None, dest="figure_to", help="file of the rank histograms")
    for name, value in (("draws", 60), ("members", 8), ("columns", 416), ("steps", 8)):
        sbc.add_argument(f"--{name}", type=int, default=value, dest=f"n_{name}")
    sbc.add_argument("--start", default="warm", choices=["warm", "cold"])
    sbc.add_argument("--covariance", default=None, choices=["calibrated", "climatological"])
    sbc.add_argument("--seed", type=int, default=0)


def _run(stage: str, options: dict) -> None:
    if stage == "nature":
        from xdiffda.experiments.osse.nature import NatureRun, run

        run(options["out"], NatureRun(stream=options["stream"], days=options["days"]))
    elif stage == "pairs":
        from xdiffda.experiments.osse import cycled_pairs
        from xdiffda.experiments.osse import pairs as forecasts

        if (source := options.pop("source")) != "forecasts":
            cycled_pairs.main(**options, kind=source)
        else:
            options.pop("model")
            forecasts.main(**options)
    elif stage == "bundle":
        from xdiffda.experiments.osse.bundle import bundle

        bundle(**options)
    elif stage == "publish":
        from xdiffda.experiments.osse.publish import publish

        publish(**options)
    elif stage == "sbc":
        from xdiffda.experiments.osse.sbc import sbc

        print(sbc(**options))
    else:
        from xdiffda.experiments.osse.evaluate import evaluate
        from xdiffda.experiments.osse.tables import markdown

        print(markdown(evaluate(**options)))


if __name__ == "__main__":
    request_huge_pages()
    main()
