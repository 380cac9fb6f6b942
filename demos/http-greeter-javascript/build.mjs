// build.mjs TOOLS OUTPUT: the command line of componentize-js fails on Node 20, its function does not.

import { writeFile } from "node:fs/promises";

const [tools, output] = process.argv.slice(2);
const { componentize } = await import(`${tools}/node_modules/@bytecodealliance/componentize-js/src/componentize.js`);
const { component } = await componentize({
  sourcePath: "main.js",
  witPath: `${tools}/wit`,
  worldName: "greeter",
});
await writeFile(output, component);
