"""The models as other libraries know theirs: in timm's registry, in transformers' Auto classes and pipelines."""
