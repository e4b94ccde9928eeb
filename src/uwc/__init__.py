"""Unlearning With Control: has a language model really forgotten, and which unlearning method is better?"""

__version__ = "0.1.0"
