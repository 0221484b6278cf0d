"""Language: which language a caption is in, and how sure that is of the wanted one (`language.py`)."""
