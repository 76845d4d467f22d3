"""Fine-tune a segment classifier that sees the video around the segment (context-aware): `cache/segment/NAME_FOLD`."""
import argparse
from pathlib import Path

from yt8m.cli import add_training_options, make_parser, run


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser(
        __doc__, "SEED=4055 python -m yt8m.train_segment_w_context scripts/segment_with_context.yaml "
        "data/cache/video/dbof-3 data/cache/video/nextvlad-2 --fold 3 --name dbof-3-nextvlad-2",
        "device", "seed", "workers", "on-error")
    add_training_options(parser, "cache/segment/NAME_FOLD")
    parser.add_argument("context_model", type=Path, metavar="CONTEXT_MODEL_DIR",
                        help="folder of the video model that becomes the context encoder")
    parser.add_argument("segment_model", type=Path, metavar="SEGMENT_MODEL_DIR",
                        help="folder of the video model that becomes the segment encoder")
    parser.add_argument("--fold", type=int, required=True, metavar="K",
                        help="which of the 8 folds to validate on, 0 to 7")
    return parser


def main(args: argparse.Namespace) -> None:
    """Train and export. Raises `UserError`."""
    from helperbot import parameter_groups
    from torch import nn

    from yt8m.artifacts import copy_encoder, load_video_model
    from yt8m.config import BaseSection, load_config, override_steps
    from yt8m.segment_models import ContextAwareModel
    from yt8m.training import SegmentTask, exported_config, segment_loaders, start_run, train
    from yt8m.vocabulary import load_vocabulary

    config = load_config(args.config, "segment_w_context.model", "segment_w_context.training")
    section = override_steps(config.segment_w_context, args.steps)
    architecture, settings = section.model, section.training
    vocabulary = load_vocabulary(args.data_dir)
    context_base, segment_base = (load_video_model(path, len(vocabulary))
                                  for path in (args.context_model, args.segment_model))
    session = start_run(args, args.data_dir / "cache" / "segment" / f"{args.name}_{args.fold}")
    loaders = segment_loaders(
        args.data_dir, args.fold, vocabulary, context_base.config, architecture.max_len, settings, session)
    model = ContextAwareModel(architecture, context_base.config, segment_base.config, len(vocabulary))
    copy_encoder(model.context_model, context_base)
    copy_encoder(model.segment_model, segment_base)
    head = nn.ModuleList([model.intermediate_fc, model.expert_fc, model.gating_fc])
    groups = [group for module, lr in ((head, settings.lr), (model.segment_model, settings.lr / 2),
                                       (model.context_model, settings.lr / 4))
              for group in parameter_groups(module, lr, settings.weight_decay)]  # a frozen encoder has none
    sections = exported_config(
        context_base=BaseSection(model=context_base.config), segment_base=BaseSection(model=segment_base.config),
        segment_w_context=section)
    train(model, groups, SegmentTask(settings.negative_weight), settings, loaders, sections, session)


if __name__ == "__main__":
    run(main, build_parser())
