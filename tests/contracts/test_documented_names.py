"""Names of the sentence-transformers documentation choose the component that they mean, in YAML and on the command line."""

from __future__ import annotations

import pytest

from stpipe.config.schema import component, load_schema

# The documentation's name -> the short name. Old spellings and the upper-case ones of its enumerations included.
DOCUMENTED = {
    "loss": {
        "MultipleNegativesRankingLoss": "mnrl",
        "CachedMultipleNegativesRankingLoss": "mnrl",
        "CoSENTLoss": "cosent",
        "AnglELoss": "angle",
        "AngleLoss": "angle",
        "CosineSimilarityLoss": "cosine_similarity",
        "ContrastiveLoss": "contrastive",
        "OnlineContrastiveLoss": "online_contrastive",
        "TripletLoss": "triplet",
        "BatchHardTripletLoss": "batch_hard_triplet",
        "BatchHardSoftMarginTripletLoss": "batch_hard_soft_margin_triplet",
        "BatchSemiHardTripletLoss": "batch_semi_hard_triplet",
        "BatchAllTripletLoss": "batch_all_triplet",
        "MSELoss": "mse",
        "MarginMSELoss": "margin_mse",
        "DistillKLDivLoss": "distill_kl_div",
        "SpladeLoss": "splade",
        "CachedSpladeLoss": "splade",
        "SparseMultipleNegativesRankingLoss": "sparse_mnrl",
        "SparseCoSENTLoss": "cosent",
        "SparseAnglELoss": "angle",
        "SparseAngleLoss": "angle",
        "SparseTripletLoss": "triplet",
        "SparseCosineSimilarityLoss": "cosine_similarity",
        "SparseMSELoss": "mse",
        "SparseMarginMSELoss": "margin_mse",
        "SparseDistillKLDivLoss": "sparse_distill_kl_div",
        "MatryoshkaLoss": "matryoshka",
        "Matryoshka2dLoss": "matryoshka_2d",
        "AdaptiveLayerLoss": "adaptive_layer",
        "GISTEmbedLoss": "gist_embed",
        "CachedGISTEmbedLoss": "gist_embed",
        "MegaBatchMarginLoss": "mega_batch_margin",
        "GlobalOrthogonalRegularizationLoss": "global_orthogonal_regularization",
        "EmbedDistillLoss": "embed_distill",
        "SoftmaxLoss": "softmax",
        "ContrastiveTensionLoss": "contrastive_tension_pairs",
        "ContrastiveTensionLossInBatchNegatives": "contrastive_tension",
        "DenoisingAutoEncoderLoss": "denoising_auto_encoder",
        "BinaryCrossEntropyLoss": "binary_cross_entropy",
        "CrossEntropyLoss": "cross_entropy",
        "LambdaLoss": "lambda",
        "ListNetLoss": "listnet",
        "ListMLELoss": "listmle",
        "PListMLELoss": "plistmle",
        "RankNetLoss": "ranknet",
        "ADRMSELoss": "adr_mse",
    },
    "sampler": {
        "no_duplicates": "no_duplicates",
        "NO_DUPLICATES": "no_duplicates",
        "no_duplicates_hashed": "no_duplicates",
        "GROUP_BY_LABEL": "group_by_label",
        "BATCH_SAMPLER": "random",
    },
    "evaluator": {
        "EmbeddingSimilarityEvaluator": "embedding_similarity",
        "InformationRetrievalEvaluator": "information_retrieval",
        "TripletEvaluator": "triplet",
        "BinaryClassificationEvaluator": "binary_classification",
        "RerankingEvaluator": "reranking",
        "SequentialEvaluator": "sequential",
        "NanoBEIREvaluator": "nano_beir",
        "MSEEvaluator": "mse",
        "ReciprocalRankFusionEvaluator": "reciprocal_rank_fusion",
        "SparseEmbeddingSimilarityEvaluator": "embedding_similarity",
        "SparseInformationRetrievalEvaluator": "information_retrieval",
        "SparseTripletEvaluator": "triplet",
        "SparseBinaryClassificationEvaluator": "binary_classification",
        "SparseRerankingEvaluator": "reranking",
        "SparseNanoBEIREvaluator": "nano_beir",
        "SparseMSEEvaluator": "mse",
        "CrossEncoderClassificationEvaluator": "cross_encoder_classification",
        "CEBinaryClassificationEvaluator": "cross_encoder_classification",
        "CEBinaryAccuracyEvaluator": "cross_encoder_classification",
        "CESoftmaxAccuracyEvaluator": "cross_encoder_classification",
        "CEF1Evaluator": "cross_encoder_classification",
        "CrossEncoderCorrelationEvaluator": "cross_encoder_correlation",
        "CECorrelationEvaluator": "cross_encoder_correlation",
        "CrossEncoderRerankingEvaluator": "cross_encoder_reranking",
        "CERerankingEvaluator": "cross_encoder_reranking",
        "CrossEncoderNanoBEIREvaluator": "cross_encoder_nano_beir",
    },
}


@pytest.mark.parametrize("group", DOCUMENTED)
def test_documented_names_choose_the_component(group: str) -> None:
    schema = load_schema()
    for documented, name in DOCUMENTED[group].items():
        assert component(schema, group, name) is not None, f"{group} has no {name!r}"
        assert component(schema, group, documented) is component(schema, group, name), f"{group} {documented!r} is not {name!r}"


def test_other_names_choose_nothing() -> None:
    assert component(load_schema(), "loss", "TripletLos") is None
