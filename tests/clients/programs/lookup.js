// lookup.js lookup|resolve A|AAAA|both|SRV NAME: prints the result of dns.lookup (getaddrinfo) or
// dns.resolve* (c-ares), one record per line, or one line "! ERROR".
const dns = require("dns").promises;

const lookup = async (kind, name) => {
  const family = { A: 4, AAAA: 6, both: 0 }[kind];
  return (await dns.lookup(name, { all: true, family })).map((found) => found.address);
};

const resolve = async (kind, name) => {
  if (kind === "A") return dns.resolve4(name);
  if (kind === "AAAA") return dns.resolve6(name);
  const found = await dns.resolveSrv(name);
  return found.map((each) => `${each.priority} ${each.weight} ${each.port} ${each.name}`);
};

const [method, kind, name] = process.argv.slice(2);
({ lookup, resolve })[method](kind, name).then(
  (lines) => lines.forEach((line) => console.log(line)),
  (error) => console.log(`! ${error.code}`),
);
