use std::time::Instant;
use model::*;
fn main(){
 let n=973_872usize;
 for extra in [0usize,16,1024,1040,5000, 100_000] {
  for round in 0..2 {
  let mk=|k:usize| { let mut v=Vec::with_capacity(n+extra*k); v.resize(n,0.01f32); v};
  let mut s=State{step:0,parameters:mk(1),exp_avg:mk(2),exp_avg_sq:mk(3)}; let g=mk(4);
  let mut t=vec![]; for _ in 0..200 { let i=Instant::now(); Adam::new(1e-3).apply(&mut s,&g,64); t.push(i.elapsed().as_secs_f64()*1e6);} t.sort_by(f64::total_cmp);
  if round==1 {println!("extra {extra}: min {:.0} med {:.0}  ptr offs {:?}",t[0],t[100],[s.parameters.as_ptr() as usize%4096,s.exp_avg.as_ptr() as usize%4096,s.exp_avg_sq.as_ptr() as usize%4096,g.as_ptr() as usize%4096]);}
 }}
}
