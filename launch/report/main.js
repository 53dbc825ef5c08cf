// The page of one run, or of two.
put([overview(), claims(), curves(), timeline(), deadGroups(), evaluation(), rollouts(), settings(), provenance()]);
