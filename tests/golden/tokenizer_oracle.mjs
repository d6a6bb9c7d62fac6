// Ids of tests/golden/tokenizer/strings.json by an implementation we did not write. In any folder:
//     npm install @huggingface/tokenizers && node .../tests/golden/tokenizer_oracle.mjs
// With two arguments (a tokenizer.json, a file holding a JSON list of texts) it prints the ids of each, one list a line.
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const { Tokenizer } = createRequire(process.cwd() + "/")("@huggingface/tokenizers");
const here = path.dirname(fileURLToPath(import.meta.url));
const read = (file) => JSON.parse(fs.readFileSync(file, "utf8"));
const encodeAll = (file, texts) => {
  const tokenizer = new Tokenizer(read(file), {});
  return texts.map((text) => tokenizer.encode(text).ids);
};
const lines = (lists) => lists.map((list) => JSON.stringify(list));

if (process.argv.length === 4) {
  console.log(lines(encodeAll(process.argv[2], read(process.argv[3]))).join("\n"));
} else {
  const golden = path.join(here, "tokenizer");
  const texts = read(path.join(golden, "strings.json"));
  const pocket = path.join(here, "../../jobs/quickstart/base/tokenizer.json");
  const files = { pocket, gpt2_like: path.join(golden, "gpt2_like.json"), fallback: path.join(golden, "fallback.json") };
  for (const [name, file] of Object.entries(files))
    fs.writeFileSync(path.join(golden, name + ".ids.json"), "[\n" + lines(encodeAll(file, texts)).join(",\n") + "\n]\n");
}
