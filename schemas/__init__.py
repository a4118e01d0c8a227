"""The nouns of wamloom: frozen values, cards, recipes and table schemas. No file is opened here."""
