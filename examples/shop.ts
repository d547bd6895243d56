// Writes what an online shop might export, some of it wrong, as docs/shop.md takes it in: four CSV files, always the same.
import { writeFileSync } from "node:fs";

let seed = 7;
/** mulberry32: the same shop on every machine. */
function random(): number {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
}
const below = (limit: number): number => Math.floor(random() * limit);
const pick = <T>(values: readonly T[]): T => values[below(values.length)]!;
const day = (from: string, days: number): string =>
  new Date(Date.parse(from) + days * 86_400_000).toISOString().slice(0, 10);

const CATEGORIES = {
  books: ["Atlas", "Novel", "Cookbook"],
  garden: ["Spade", "Hose", "Seeds"],
  toys: ["Kite", "Blocks"],
};
const PRODUCTS = 240;
const ORDERS = 3_000;

const products = ["sku,name,category,unit price,in stock"];
const prices: number[] = [];
for (let i = 0; i < PRODUCTS; i++) {
  const category = pick(Object.keys(CATEGORIES) as (keyof typeof CATEGORIES)[]);
  prices.push(2 + below(9_000) / 100);
  products.push(
    `P-${1000 + i},"${pick(CATEGORIES[category])}, no. ${i + 1}",${category},${prices[i]!.toFixed(2)},${random() < 0.8}`,
  );
}
// One price that is none, and one product that comes again: the last record wins.
products.push(`P-${1000 + PRODUCTS},"Gift card",toys,on request,true`);
products.push(`P-1000,"Atlas, new edition",books,19.90,true`);

const orders = ["order_id,customer_email,status,ordered_at"];
const lines = ["order_id,line_no,sku,quantity,unit_price"];
const returns = ["return_id,order_id,line_no,reason,returned_on"];
for (let i = 1; i <= ORDERS; i++) {
  const ordered = day("2026-01-01", below(120));
  const time = `${String(below(24)).padStart(2, "0")}:${String(below(60)).padStart(2, "0")}`;
  orders.push(
    `${i},customer${1 + below(400)}@example.com,${pick(["delivered", "delivered", "shipped", "paid"])},${ordered}T${time}:00Z`,
  );
  for (let line = 1; line <= 1 + below(4); line++) {
    const product = below(PRODUCTS);
    lines.push(`${i},${line},P-${1000 + product},${1 + below(3)},${prices[product]!.toFixed(2)}`);
    if (random() < 0.03)
      returns.push(
        `R${returns.length},${i},${line},${pick(["broken", "too late", "changed mind"])},${day(ordered, 3 + below(20))}`,
      );
  }
}
// A day that there never was, lines without a product or an order, a return of a line that was not ordered.
orders.push(`${ORDERS + 1},customer1@example.com,paid,2026-02-30T10:00:00Z`);
lines.push(`1,9,P-9999,1,5.00`, `${ORDERS + 9},1,P-1001,1,5.00`);
returns.push(`R${returns.length},1,8,broken,2026-05-02`);

for (const [name, rows] of Object.entries({ products, orders, order_lines: lines, returns }))
  writeFileSync(`${name}.csv`, `${rows.join("\n")}\n`);
