"""The judgement of wamloom: checks, measures and the report. Values in, findings out; no file is opened here."""
