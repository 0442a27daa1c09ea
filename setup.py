"""Which files belong to the package; everything else is in pyproject.toml.

The wheel holds examples/ as fairseq_cloze/examples, from where ``fairseq-cloze examples`` copies it.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["fairseq_cloze*"]), "fairseq_cloze.examples"],
    package_dir={"fairseq_cloze.examples": "examples"},
    package_data={
        "*": ["*.css", "*.html", "*.js", "*.json", "py.typed"],
        "fairseq_cloze.examples": ["**"],
    },
    exclude_package_data={"fairseq_cloze.examples": ["**/__pycache__/*"]},
)
