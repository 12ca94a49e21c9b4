"""An experiment's results, whoever wrote them: as records one at a time, from the journal or from result files."""
