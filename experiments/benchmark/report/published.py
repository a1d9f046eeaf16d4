"""The paper's Table 1: test accuracy in percent, mean and standard deviation of three runs."""

from collections.abc import Mapping

# None: "the model failed to converge".
_MODELS = ("resnet18", "resnet50", "wide_resnet28_10", "alexnet")
_ROWS: Mapping[tuple[str, str], tuple[tuple[float, float] | None, ...]] = {
    ("cifar10", "sam"): ((93.64, 0.30), (92.33, 0.54), (95.01, 0.18), (88.66, 0.56)),
    ("cifar10", "wsam"): ((93.01, 0.42), (91.68, 0.25), (94.23, 0.08), (90.08, 0.35)),
    ("cifar10", "gsam"): ((93.80, 0.24), (92.16, 0.39), (94.67, 0.42), (88.59, 0.13)),
    ("cifar10", "eigen_sam"): ((93.82, 0.17), (92.57, 0.29), (95.11, 0.10), (88.79, 0.19)),
    ("cifar10", "xsam"): ((94.71, 0.20), (93.76, 0.07), (95.53, 0.26), (90.73, 0.09)),
    ("cifar100", "sam"): ((74.00, 0.24), (72.01, 1.67), (77.96, 0.15), (60.26, 0.35)),
    ("cifar100", "wsam"): ((73.65, 0.01), (71.04, 0.60), (77.19, 0.53), (65.90, 0.36)),
    ("cifar100", "gsam"): ((73.55, 0.09), (71.61, 0.54), (78.15, 0.14), (60.14, 0.21)),
    ("cifar100", "eigen_sam"): ((73.74, 0.28), (71.90, 1.07), (78.20, 0.02), (60.49, 0.38)),
    ("cifar100", "xsam"): ((74.10, 0.37), (74.08, 0.23), (78.23, 0.36), (68.82, 0.01)),
    ("fashion_mnist", "sam"): ((95.22, 0.14), (94.46, 0.44), (95.56, 0.10), (94.34, 0.03)),
    ("fashion_mnist", "wsam"): ((95.32, 0.35), (94.57, 0.13), (95.40, 0.07), None),
    ("fashion_mnist", "gsam"): ((95.39, 0.03), (94.94, 0.20), (95.68, 0.15), (94.61, 0.08)),
    ("fashion_mnist", "eigen_sam"): ((95.36, 0.24), (94.76, 0.12), (95.61, 0.05), None),
    ("fashion_mnist", "xsam"): ((95.52, 0.14), (95.16, 0.04), (95.53, 0.04), (94.75, 0.72)),
}


def published(dataset: str, model: str, method: str) -> str:
    """Look up the paper's number for a method, as text; empty where it has none.

    Args:
        dataset: Name of the data set.
        model: Name of the network.
        method: Name of the method.

    Returns:
        ``mean ± standard deviation``, or "did not converge", or "" where the paper has none.
    """
    row = _ROWS.get((dataset, method))
    if row is None or model not in _MODELS:
        return ""
    value = row[_MODELS.index(model)]
    return "did not converge" if value is None else f"{value[0]:.2f} ± {value[1]:.2f}"
