// Ids of tests/golden/tokenizer/strings.json by an implementation we did not write: Hugging Face's own, in Rust. In any folder:
//     npm install --ignore-scripts tokenizers && node .../tests/golden/tokenizer_oracle.mjs
// With two arguments (a tokenizer.json, a file holding a JSON list of texts) it prints the ids of each, one list a line.
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const { Tokenizer } = createRequire(process.cwd() + "/")("tokenizers");
const here = path.dirname(fileURLToPath(import.meta.url));
const golden = path.join(here, "tokenizer");
const read = (file) => JSON.parse(fs.readFileSync(file, "utf8"));
const encodeAll = async (file, texts) => {
  const tokenizer = Tokenizer.fromFile(file);
  const lists = [];
  for (const text of texts) lists.push((await tokenizer.encode(text)).getIds());
  return lists;
};
const lines = (lists) => lists.map((list) => JSON.stringify(list));
const fold = (ids) => ids.reduce((sum, id) => (Math.imul(sum, 31) + id + 1) >>> 0, 0);

// variants.ids.json: for each variant one number a text, strings, then `more`, then long lines: the ids folded by
// sum = 31 sum + id + 1. decoded.json: for each decoder two numbers a text (no long lines): the bytes, folded alike, of the
// decoded ids and of the ids in the opposite order, special tokens left out.
const encodeVariants = async (texts) => {
  const { more, long, variants, decoders } = read(path.join(golden, "variants.json"));
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "variants-"));
  const file = path.join(folder, "tokenizer.json");
  const put = (base, parts, model) => {
    const tokenizer = { ...read(path.join(golden, base)), ...parts };
    Object.assign(tokenizer.model, model);
    fs.writeFileSync(file, JSON.stringify(tokenizer));
  };
  const ids = {}, decoded = {};
  const short = texts.concat(more);
  for (const [name, base, parts, model] of variants) {
    put(base, parts, model);
    ids[name] = (await encodeAll(file, short.concat(long.map(([unit, times]) => unit.repeat(times))))).map(fold);
  }
  for (const [name, base, decoder] of decoders) {
    put(base, decoder === null ? {} : { decoder: decoder.type ? decoder : null }, {});
    const tokenizer = Tokenizer.fromFile(file);
    decoded[name] = [];
    for (const list of await encodeAll(file, short))
      for (const order of [list, list.slice().reverse()])
        decoded[name].push(fold([...Buffer.from(await tokenizer.decode(order, true))]));
  }
  fs.rmSync(folder, { recursive: true });
  for (const [name, found] of Object.entries({ "variants.ids.json": ids, "decoded.json": decoded })) {
    const rows = Object.entries(found).map(([key, sums]) => JSON.stringify(key) + ": " + JSON.stringify(sums));
    fs.writeFileSync(path.join(golden, name), "{\n" + rows.join(",\n") + "\n}\n");
  }
};

if (process.argv.length === 4) {
  console.log(lines(await encodeAll(process.argv[2], read(process.argv[3]))).join("\n"));
} else {
  const texts = read(path.join(golden, "strings.json"));
  const pocket = path.join(here, "../../jobs/quickstart/base/tokenizer.json");
  const files = { pocket, gpt2_like: path.join(golden, "gpt2_like.json"), fallback: path.join(golden, "fallback.json") };
  for (const [name, file] of Object.entries(files))
    fs.writeFileSync(path.join(golden, name + ".ids.json"), "[\n" + lines(await encodeAll(file, texts)).join(",\n") + "\n]\n");
  await encodeVariants(texts);
}
