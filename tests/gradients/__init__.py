"""Tests of gradient functions: of many batches, of a part of the parameters, of several devices."""
