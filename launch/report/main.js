// The page of one run, or of two.
put([overview(), claims(), curves(), timeline(), deadGroups(), evaluation(), computeSection(page.runs.map((r) => ({ name: two ? r.name : "", planes: r.planes }))), rollouts(), settings(), provenance()]);
