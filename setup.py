"""Which files belong to the package; everything else is in pyproject.toml.

The wheel holds examples/ as fairseq_cloze/examples, from where ``fairseq-cloze examples`` copies it.
"""

from setuptools import find_namespace_packages, find_packages, setup

# To setuptools every folder with a file to install is a package.
folders = find_namespace_packages(include=["examples*"], exclude=["*__pycache__*"])
examples = [f"fairseq_cloze.{folder}" for folder in folders]

setup(
    packages=[*find_packages(include=["fairseq_cloze*"]), *examples],
    package_dir={"fairseq_cloze.examples": "examples"},
    package_data={"": ["*.css", "*.html", "*.js", "*.json", "py.typed"], **dict.fromkeys(examples, ["*"])},
)
