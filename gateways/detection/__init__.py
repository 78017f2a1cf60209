"""Personal data in a text, found by local libraries: e-mail, phone, payment card, IBAN, national ids.

Touch it when something personal is missed or something innocent is found: add the text to the corpus in
``tests/gateways/test_detection.py`` first.
"""

from gateways.detection.detector import PersonalDataDetector

__all__ = ["PersonalDataDetector"]
